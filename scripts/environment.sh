# Sourced by demo.sh and test.sh: finds a Python, makes the virtual environment, installs latentdiff.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '== %s\n' "$*"; }

give_up() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 2
}

# A name on PATH is not enough: version managers leave shims that only say "not installed".
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

find_python() {
    local name path
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" && { command -v "$PYTHON"; return; }
        give_up "PYTHON=$PYTHON is not a working Python 3.10 to 3.13"
    fi
    for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
        # Every place on PATH, for a dead shim may stand before a Python that works.
        while IFS= read -r path; do
            fits "$path" && { printf '%s\n' "$path"; return; }
        done < <(type -aP "$name")
    done
    give_up "no Python 3.10 to 3.13 found ($(python3 --version 2>/dev/null || echo 'no Python'))" \
        "why: PyTorch and RAVE (acids-rave 2.3.1) are known to work with these." \
        "do:  install one beside the one you have, for example" \
        "       Debian, Ubuntu:  sudo apt install python3 python3-venv" \
        "       Fedora:          sudo dnf install python3.13" \
        "       macOS:           brew install python@3.13" \
        "       anywhere:        uv python install 3.13, or pyenv install 3.13, or conda" \
        "     and run this again; PYTHON=/path/to/python3.13 names one that is not on PATH."
}

# make_venv FOLDER: keeps a working one, together with whatever is installed in it.
make_venv() {
    local venv="$1" python
    if [ -e "$venv/bin/python" ] || [ -L "$venv/bin/python" ]; then
        fits "$venv/bin/python" ||
            give_up "the virtual environment $venv does not run Python 3.10 to 3.13" \
                "do:  delete it (or set DEMO_VENV to another folder) and run this again."
    else
        python="$(find_python)"
        say "making the virtual environment $venv with $("$python" --version)"
        "$python" -m venv --without-pip "$venv"
    fi
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || install_pip "$venv"
}

# Debian splits ensurepip off its Python; the pip beside that Python can then do the same.
install_pip() {
    local venv="$1" python
    "$venv/bin/python" -m ensurepip >/dev/null 2>&1 && return
    python="$(find_python)"
    "$python" -m pip --python "$venv/bin/python" install --quiet pip >/dev/null 2>&1 ||
        give_up "$python brings no pip for a virtual environment" \
            "do:  install its venv package (Debian, Ubuntu: sudo apt install python3-venv)" \
            "     or pip 22.3 or newer, and run this again."
}

# install_project FOLDER [EXTRAS]: the checkout, editable; nothing where this state of it is installed.
install_project() {
    local venv="$1" extras="${2:-}" stamp want
    stamp="$venv/.latentdiff${extras:+-$extras}"
    want="$root $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    # torch comes first and alone, so that a build at hand (already installed, or found through
    # pip's configuration) is kept. Without an NVIDIA GPU the CPU build is all that is needed.
    if ! "$venv/bin/python" -m pip --disable-pip-version-check show --quiet torch 2>/dev/null; then
        say "installing torch (the CUDA build, where pip finds no other, is some gigabytes)"
        pip_install "$venv" "torch>=2.5,<2.14"
    fi
    say "installing latentdiff and what it needs (minutes, the first time)"
    # As a constraint, for pip would rather replace torch than an older release of a dependency.
    "$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
        >"$venv/torch.txt"
    pip_install "$venv" --constraint "$venv/torch.txt" --editable "$root${extras:+[$extras]}"
    # From Python 3.12 on, RAVE's pin of scipy cannot be met, and is not needed.
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' &&
        pip_install "$venv" --no-deps "acids-rave==2.3.1"
    printf '%s\n' "$want" >"$stamp"
}

pip_install() {
    local venv="$1"
    shift
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input "$@" ||
        give_up "pip could not install $*" \
            "why: its own message stands above (no network, a full disk, a proxy?)" \
            "do:  mend that and run this again; it continues where it stopped."
}
