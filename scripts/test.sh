#!/usr/bin/env bash
# Lint, type check and tests, in the same environment as the demo's, with the dev extras.
#
#   scripts/test.sh                     all of it, as CI does
#   scripts/test.sh tests/test_audio.py further words go to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

venv="${DEMO_VENV:-$root/.venv}"
make_venv "$venv"
install_project "$venv" dev

cd "$root"
# Two test processes with many threads each would only wait for one another.
export OMP_NUM_THREADS=1
bin="$venv/bin"
say "ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
say "mypy"
"$bin/mypy"
say "pytest"
# Files in their order: by default those with the fewest tests come last, and these are the longest.
"$bin/pytest" -n 2 --dist loadfile --no-loadscope-reorder "$@"
