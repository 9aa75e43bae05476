#!/bin/sh
# Takes out of a virtual environment what no container runs, then compiles the rest.
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
# Test suites that ship inside packages. Folders named `testing` stay: they are public interfaces.
find "$site" -depth -type d \( -name tests -o -name test \) -not -path '*/mlflow/*' -exec rm -rf {} +
# botocore describes every AWS service; this project talks to S3 and, for credentials, to STS and SSO.
if [ -d "$site/botocore/data" ]; then
    find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d \
        -not -name s3 -not -name sts -not -name 'sso*' -exec rm -rf {} +
fi
find "$site" -name '*.pyi' -delete
# unchecked-hash: a read-only root must never find a compiled file stale and compile it again in every pod.
"$1/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" || true
