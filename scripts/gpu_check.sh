#!/usr/bin/env bash
# On an NVIDIA card, in at most eight minutes: the tests that need one, and how fast everything is.
#
#   scripts/gpu_check.sh                      with the Python and the packages that are there
#   scripts/gpu_check.sh --wheels FOLDER      and with those that scripts/gpu_wheels.sh has collected
#   scripts/gpu_check.sh --cpu                in miniature; so it is, too, where there is no card
#
# The table goes to runs/gpu_check.md; --out names another file, --parts some of the parts. The exit
# code is 1 if any line of it failed. Nothing is installed but the wheels, and these in a folder that
# is deleted in the end. PYTHON names the Python; by default that of .venv, or else python3.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
limit=480

python="${PYTHON:-}"
if [ -z "$python" ]; then
    [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python" || python=python3
fi
path="$root"
options=()
while [ $# -gt 0 ]; do
    if [ "$1" = --wheels ]; then
        site="$(mktemp -d)"
        trap 'rm -rf "$site"' EXIT
        "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
            --no-compile --target "$site" "${2:?--wheels needs a folder}"/*.whl
        path="$path:$site"
        shift 2
    else
        options+=("$1")
        shift
    fi
done
PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" \
    "$python" "$root/scripts/gpu_check.py" --seconds $((limit - SECONDS - 10)) "${options[@]}"
