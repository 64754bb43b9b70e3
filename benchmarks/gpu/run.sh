#!/usr/bin/env bash
# Benchmark the product on a GPU, in at most 6 minutes and without network:
#
#     benchmarks/gpu/run.sh [--tiny] [--out DIR] [--rows DIR] [PART...]
#
# Each part is a separate process with a time limit and writes DIR/PART.json after each figure. If a part fails, the
# next part still runs. --tiny tries every part on a CPU. docs/gpu.md says what must be there first.
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")

# part: time limit in seconds
declare -A limits=([machine]=15 [tests]=70 [steps-semantic]=88 [steps-emotion]=100 [llm]=36 [learning]=47)
order=(machine tests steps-semantic steps-emotion llm learning)

tiny=() parts=() out=$root/benchmarks/gpu/results rows=$root/benchmarks/gpu/cargo/rows
while (($# > 0)); do
    case $1 in
        --tiny) tiny=(--tiny) ;;
        --out) out=$(realpath -m "$2") && shift ;;
        --rows) rows=$(realpath -m "$2") && shift ;;
        *)
            if [[ -z ${limits[$1]:-} ]]; then
                echo "error: $1: no such part; expected some of ${order[*]}" >&2
                exit 2
            fi
            parts+=("$1")
            ;;
    esac
    shift
done
((${#parts[@]})) || parts=("${order[@]}")
((${#tiny[@]})) && patience=4 || patience=1 # a CPU may be busy with other work

cd "$root"
benchmarks/gpu/travels.sh || true # its error matters only for a transfer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD
. benchmarks/gpu/install.sh "$work/site"

command_of() {
    case $1 in
        tests) echo "python3 -m benchmarks.gpu.tests" ;;
        steps-*) echo "python3 -m benchmarks.gpu.steps --stage ${1#steps-}" ;;
        learning) echo "python3 -m benchmarks.gpu.learning --rows $rows --work $work/learning" ;;
        *) echo "python3 -m benchmarks.gpu.$1" ;;
    esac
}

failed=() summary=()
for part in "${parts[@]}"; do
    started=$SECONDS
    status=0
    # shellcheck disable=SC2046 # the command must be split into words
    timeout --kill-after=5 $((limits[$part] * patience)) $(command_of "$part") --out "$out" "${tiny[@]}" || status=$?
    line="$part: $((SECONDS - started)) s of $((limits[$part] * patience))"
    if ((status == 124 || status == 137)); then
        line+=", FAILED: out of time"
    elif ((status)); then
        line+=", FAILED with status $status"
    fi
    ((status == 0)) || failed+=("$part")
    summary+=("$line")
    echo "== $line"
done
printf '%s\n' "" "${summary[@]}" "figures in $out, $SECONDS s in all"
((${#failed[@]} == 0))
