#!/usr/bin/env bash
# Download the packages that a bare GPU machine lacks into benchmarks/gpu/cargo/wheels, in the versions of
# requirements/gpu.txt, as wheels for Python 3.12 on x86-64 Linux. The machine has torch, transformers, accelerate,
# peft, pyarrow, pandas, pytest and typer.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(
    absl-py protobuf tensorboard                             # for the log files of training
    annotated-types pydantic pydantic-core typing-inspection # for the parameters
    beartype jaxtyping pytest-timeout wadler-lindig          # for the tests
    cffi pycparser soundfile soxr                            # for audio
    datasets dill multiprocess xxhash                        # for packed rows
    gguf                                                     # for weights
)
wheels=benchmarks/gpu/cargo/wheels
pins=()
for package in "${packages[@]}"; do
    if ! pin=$(grep -E "^$package==[^ ;]+" --only-matching --max-count 1 requirements/gpu.txt); then
        echo "error: requirements/gpu.txt: $package: not found, expected a version of it" >&2
        exit 1
    fi
    pins+=("$pin")
done
platforms=()
for glibc in 28 27 24 17 12 5; do
    platforms+=(--platform "manylinux_2_${glibc}_x86_64")
done
rm -rf "$wheels"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$wheels" "${pins[@]}"
benchmarks/gpu/travels.sh
