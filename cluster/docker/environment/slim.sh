#!/bin/sh
# Takes out of a virtual environment what no container runs, then compiles what is not compiled yet.
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
# Test suites that ship inside packages, but for two packages that import theirs at run time. Folders named
# `testing` stay: they are public interfaces.
find "$site" -depth -type d \( -name tests -o -name test \) \
    -not -path '*/mlflow/*' -not -path '*/dagster/*' -exec rm -rf {} +
# botocore describes every AWS service; this project talks to S3 and, for credentials, to STS and SSO.
if [ -d "$site/botocore/data" ]; then
    find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d \
        -not -name s3 -not -name sts -not -name 'sso*' -exec rm -rf {} +
fi
find "$site" -name '*.pyi' -delete
# Only what is new: compiling a lower layer's files again would copy them all into this one.
# unchecked-hash: a read-only root must never find a compiled file stale and compile it again in every pod.
tag=$("$1/bin/python" -c 'import sys; print(sys.implementation.cache_tag)')
find "$site" -name '*.py' | while IFS= read -r file; do
    name=${file##*/}
    [ -e "${file%/*}/__pycache__/${name%.py}.$tag.pyc" ] || printf '%s\0' "$file"
done | xargs -0 -r -n 400 -P "$(nproc)" "$1/bin/python" -m compileall -q --invalidation-mode unchecked-hash || true
