# shellcheck shell=bash
# Source this in the root of the checkout: it activates .venv, or installs the wheels in cargo/wheels into folder $1.
wheels=(benchmarks/gpu/cargo/wheels/*.whl)
if [[ -f .venv/bin/activate ]]; then
    . .venv/bin/activate
elif [[ -f ${wheels[0]} ]]; then
    python3 -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$1" "${wheels[@]}"
    export PYTHONPATH=$PYTHONPATH:$1
fi
