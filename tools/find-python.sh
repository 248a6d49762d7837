#!/bin/sh
# Prints the command of a Python 3.11 or newer, or says what to install and exits 3.
#
#     tools/find-python.sh [PREFERRED]
#
# Each candidate is run, not only looked up: a version manager's shim may exist for a version that is not installed.
set -u

for candidate in "$@" python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        printf '%s\n' "$candidate"
        exit 0
    fi
done

echo 'dmspec needs Python 3.11 or newer and found none; on Debian or Ubuntu: apt-get install python3.11 python3.11-venv' >&2
exit 3
