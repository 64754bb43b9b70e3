#!/usr/bin/env bash
# Run each fold of a protocol, and pool the folds: recipes/folds.sh RECIPE DATA_ROOT PROTOCOL
# PROTOCOL is a name (python -m evaluate protocols) or the path of a file. The run of a fold is
# runs/RECIPE-PROTOCOL-FOLD; the pooled answers and metrics are in runs/RECIPE-PROTOCOL.
set -euo pipefail
cd "$(dirname "$0")/.."

if (($# != 3)) || [[ -z $1 || -z $3 ]]; then
    echo "error: expected RECIPE=name DATA_ROOT=folder PROTOCOL=name, found RECIPE=${1:-} PROTOCOL=${3:-}" >&2
    exit 1
fi
recipe=$1 data_root=$2 protocol=$3
folds=$(python -m evaluate protocols folds "$protocol")
pooled=runs/$recipe-$(basename -s .yaml "$protocol")
mkdir -p runs
runs=()
for fold in $folds; do
    run=$pooled-$fold
    python -m evaluate protocols show "$protocol" --fold "$fold" --recipe "recipes/$recipe.yaml" >"$run.yaml"
    recipes/run.sh "$run.yaml" "$data_root"
    runs+=("$run")
done
python -m evaluate pool "$protocol" "${runs[@]}" --output "$pooled"
