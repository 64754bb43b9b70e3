# shellcheck shell=bash
# To be sourced from the root of the checkout: take its .venv, or install the wheels that have travelled into folder $1.
wheels=(benchmarks/gpu/cargo/wheels/*.whl)
if [[ -f .venv/bin/activate ]]; then
    . .venv/bin/activate
elif [[ -f ${wheels[0]} ]]; then
    python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$1" "${wheels[@]}"
    export PYTHONPATH=$PYTHONPATH:$1
fi
