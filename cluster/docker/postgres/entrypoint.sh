#!/bin/sh
# Creates the database folder on the first start, then becomes the server. Reads the public image's variables:
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Into a folder beside it first: a pod killed here must not leave half a database that looks whole.
    fresh="$PGDATA.new"
    rm -rf "$fresh"
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata="$fresh" --username="$POSTGRES_USER" --pwfile=/tmp/password \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$fresh/pg_hba.conf"
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$fresh" postgres
    mv "$fresh" "$PGDATA"
fi
exec "$@" -c listen_addresses='*'
