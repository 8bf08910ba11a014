#!/bin/sh
# Prints the newest Python that can run this project; PYTHON, when set, is taken as it is.
# 3.14 comes last: for it some of the locked packages have no wheels and need a compiler.
if [ -n "$PYTHON" ]; then
    echo "$PYTHON"
    exit 0
fi
for candidate in python3.13 python3.12 python3.11 python3 python python3.14; do
    # Asked, not only found: a version manager's shim may stand for a Python that is not there.
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
echo "error: Python 3.11 or newer with venv is needed (on Debian and Ubuntu: python3 and python3-venv); or set PYTHON" >&2
exit 1
