#!/usr/bin/env bash
# From a fresh checkout to sound: makes .venv, installs latentdiff, runs `latentdiff quickstart`.
#
#   scripts/demo.sh                     learns from music that it makes itself
#   scripts/demo.sh ~/my/recordings     learns from yours
#
# Further words go to `latentdiff quickstart`. Safe to run again: it continues.
# PYTHON names the Python to use, DEMO_VENV the virtual environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

venv="${DEMO_VENV:-$root/.venv}"
make_venv "$venv"
install_project "$venv"

run="$root/runs/quickstart"
say "latentdiff quickstart (about ten minutes on two CPU cores)"
"$venv/bin/latentdiff" quickstart --run "$run" "$@"
say "to use latentdiff from here on: source \"$venv/bin/activate\""
