#!/usr/bin/env bash
# Make .venv from the version lock for CPU or GPU: requirements/setup.sh cpu|gpu
# This script finds a Python. install.py does the rest, with only this Python and its pip.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    local name
    for name in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "error: python3: found none of version 3.11 or newer with venv; expected one on PATH" \
        "(Debian, Ubuntu: apt-get install python3-venv)" >&2
    return 1
}

python=$(find_python)
exec "$python" requirements/install.py "$1"
