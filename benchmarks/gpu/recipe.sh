#!/usr/bin/env bash
# Train and evaluate a recipe on a GPU machine that receives only small transfers. The rows and weights are cut into
# pieces here. There, the pieces are checked by their checksums and joined:
#
#     benchmarks/gpu/recipe.sh cut NAME [RUN]            here: cut runs/NAME (packed before) into benchmarks/gpu/cargo/pieces
#     benchmarks/gpu/recipe.sh keep NAME                 there, after each transfer: store its pieces
#     benchmarks/gpu/recipe.sh run NAME [--out DIR]      there: join, train both stages, evaluate
#
# BLSP_RECIPE_DIR is the folder for the pieces and the run there.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

usage() {
    sed -n '2,/^set/ s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
(($# >= 2)) || usage
verb=$1 name=$2
piece_size=${BLSP_PIECE_MIB:-56}
pieces=benchmarks/gpu/cargo/pieces/$name
work=${BLSP_RECIPE_DIR:-/tmp/blsp-recipe}/$name
kinds=(semantic emotion)

cut_pieces() {
    local run=${1:-runs/$name} kind piece
    staged=$(mktemp -d) # not local, because the trap uses it
    trap 'rm -rf "$staged"' EXIT
    mkdir -p "$staged/data"
    for kind in "${kinds[@]}"; do
        if [[ ! -d $run/data/packed/$kind ]]; then
            echo "error: $run/data/packed/$kind: no such folder; run recipes/run.sh $name DATA_ROOT pack first" >&2
            exit 1
        fi
    done
    cp -rL "$run/data/packed" "$staged/data/packed"
    mkdir "$staged/manifests" # score reads the splits from them
    cp -L "$run"/manifests/*.parquet "$staged/manifests"
    local told=manifests/continuations/told.parquet # of generate-told; without it, own answers are not scored
    if [[ -f $run/$told ]]; then
        mkdir "$staged/manifests/continuations"
        cp -L "$run/$told" "$staged/$told"
    fi
    PYTHONPATH=$root python3 -m benchmarks.gpu.weights "$run/params.yaml" --out "$staged"
    rm -rf "$pieces"
    mkdir -p "$pieces"
    tar -C "$staged" -c . | split --bytes="${piece_size}M" --numeric-suffixes - "$pieces/piece-"
    (cd "$pieces" && sha256sum piece-* >SUMS)
    for piece in "$pieces"/piece-*; do
        benchmarks/gpu/travels.sh "$piece"
    done
}

keep_pieces() {
    if ! compgen -G "$pieces/piece-*" >/dev/null || [[ ! -f $pieces/SUMS ]]; then
        echo "error: $pieces: found no piece with SUMS, expected those of this transfer" >&2
        exit 1
    fi
    mkdir -p "$work/pieces"
    mv "$pieces"/* "$work/pieces/"
    echo "recipe: $(find "$work/pieces" -name 'piece-*' | wc -l) of $(wc -l <"$work/pieces/SUMS") pieces are there"
}

timed() {
    local started=$SECONDS
    "${@:2}"
    echo "recipe: $1: $((SECONDS - started)) s" | tee -a times.txt
}

run_recipe() {
    local out=benchmarks/gpu/results/$name kind told=manifests/continuations/told.parquet own=() scored=() asked
    [[ ${1:-} != --out ]] || out=$2
    mkdir -p "$out"
    out=$(realpath "$out")
    (cd "$work/pieces" && sha256sum --check --quiet SUMS)
    (cd "$work/pieces" && awk '{ print $2 }' SUMS | xargs cat) | tar -C "$work" -x
    export PYTHONPATH=$root HF_HUB_OFFLINE=1 PIP_NO_INDEX=1 PIP_FIND_LINKS=$work/wheels
    export BLSP_EMO_CACHE=$work/cache PYTHONUNBUFFERED=1
    . benchmarks/gpu/install.sh "$work/site"
    cd "$work"
    : >times.txt
    if [[ -f $told ]]; then
        own=(--told "$told" --stage1 models/semantic --stage1-data data/packed/semantic)
        scored=(--own-answers predictions/emotion/own_answers.parquet --written predictions/emotion/written.parquet)
    fi
    timed "fit semantic" python3 -m train.fit --kind semantic --data data/packed/semantic \
        --output models/semantic --resume
    timed "fit emotion" python3 -m train.fit --kind emotion --data data/packed/emotion --init models/semantic \
        --output models/emotion --resume
    for kind in "${kinds[@]}"; do
        cp "models/$kind/losses.jsonl" "$out/$kind.losses.jsonl"
        [[ $kind == semantic ]] && asked=() || asked=("${own[@]}")
        timed "respond $kind" python3 -m evaluate.respond --kind "$kind" --data "data/packed/$kind" \
            --model "models/$kind" --output "predictions/$kind" "${asked[@]}"
        cp "predictions/$kind"/*.parquet "$out"
    done
    python3 -m evaluate.score --divergence predictions/semantic/divergence.parquet --models models \
        --recognition predictions/emotion/recognition.parquet --prompts predictions/emotion/prompts.parquet \
        --dev-head predictions/emotion/dev_head.parquet "${scored[@]}" \
        --metrics "$out/metrics.json" --confusions "$out/confusions.json" --plots plots
    sed 's/^  precision: .*/  precision: float32/' params.yaml >float32.yaml # two spaces: only in the section respond
    timed "respond emotion, float32" python3 -m evaluate.respond --kind emotion --data data/packed/emotion \
        --model models/emotion --output float32 --params float32.yaml
    python3 -m benchmarks.gpu.agreement predictions/emotion/recognition.parquet float32/recognition.parquet \
        | tee -a times.txt
    cp times.txt "$out"
    echo "recipe: losses, answers and figures in $out"
}

case $verb in
    cut) cut_pieces "${@:3}" ;;
    keep) keep_pieces ;;
    run) run_recipe "${@:3}" ;;
    *) usage ;;
esac
