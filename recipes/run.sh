#!/usr/bin/env bash
# Run a recipe in runs/NAME, a separate DVC project: recipes/run.sh NAME [DATA_ROOT [STAGE...]]
# With STAGE, only these stages and the stages that they need run. NAME.yaml in any folder may take the place of NAME.
# The project shares the code and DVC's cache with the main project, so equal stages do not run twice.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-} data_root=${2:-}
recipe=recipes/$name.yaml
if [[ $name == *.yaml ]]; then
    recipe=$name name=$(basename -s .yaml "$name")
fi
if [[ ! -f $recipe ]]; then
    known=$(basename -s .yaml -a recipes/*.yaml | paste -sd ' ')
    echo "error: $recipe: no such recipe; expected one of $known" >&2
    exit 1
fi
run=runs/$name
mkdir -p "$run/data" "$run/manifests"
[[ -f $run/manifests/choices.csv ]] || echo recipe,key,generation >"$run/manifests/choices.csv"
if [[ -n $data_root ]]; then
    if [[ ! -d $data_root ]]; then
        echo "error: DATA_ROOT: $data_root: no such folder; expected the folder that holds the corpora" >&2
        exit 1
    fi
    ln -sfn "$(realpath "$data_root")" "$run/data/corpora"
elif [[ ! -d $run/data/corpora ]] && grep -q 'data/corpora' "$recipe"; then
    echo "error: DATA_ROOT: not given; $recipe expects the folder that holds its corpora" >&2
    exit 1
fi

[[ -d $run/.dvc ]] || (cd "$run" && dvc init --quiet --no-scm)
cp .dvc/config "$run/.dvc/config.local"
cp .dvcignore dvc.yaml "$run"
cp "$recipe" "$run/params.yaml"
for package in pipeline train evaluate; do
    ln -sfn "../../$package" "$run/$package"
done
cd "$run"
dvc config --local --quiet cache.dir ../../../.dvc/cache
dvc repro "${@:3}"
(($# > 2)) || echo "run: report in $run/results/report.html, figures in $run/results/metrics.json"
