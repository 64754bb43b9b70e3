#!/usr/bin/env bash
# Print the size of one transfer to a GPU machine; fail if it is 60 MiB or more: benchmarks/gpu/travels.sh [PIECE]
# A transfer is the tree with a piece of a recipe (recipe.sh), or else with the wheels and the rows of run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

limit=60
bytes() { { du --files0-from=- --bytes --total 2>/dev/null || true; } | tail -n 1 | cut -f 1; }
mebibytes() { awk "BEGIN { printf \"%.1f MiB\", $1 / 1048576 }"; }

cargo=benchmarks/gpu/cargo
tree=$(git ls-files --cached --others --exclude-standard -z 2>/dev/null | bytes) || tree=0 # 0 if this is no repository
if (($# > 0)); then
    loads=("$1")
    if [[ ! -e $1 ]]; then
        echo "error: $1: no such file; expected a piece of a recipe" >&2
        exit 1
    fi
else
    loads=("$cargo/wheels" "$cargo/rows")
fi
total=$tree
line="tree $(mebibytes "$tree")"
for load in "${loads[@]}"; do
    size=$({ find "$load" -type f -print0 2>/dev/null || true; } | bytes)
    line+=", $(basename "$load") $(mebibytes "${size:-0}")"
    total=$((total + ${size:-0}))
done
echo "travels: $line, together $(mebibytes "$total") of $limit MiB"
if ((total >= limit * 1048576)); then
    echo "error: travels: found $(mebibytes "$total"), expected less than $limit MiB" >&2
    exit 1
fi
