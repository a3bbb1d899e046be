#!/usr/bin/env bash
# Collects as wheels what latentdiff and RAVE need, but for torch: for scripts/gpu_check.sh --wheels
# on a machine with a card and without internet.
#
#   scripts/gpu_wheels.sh FOLDER                      for Python 3.12 on x86-64 Linux
#   scripts/gpu_wheels.sh FOLDER --python 3.11        for another Python
#   scripts/gpu_wheels.sh FOLDER --machine aarch64    for another processor
#   scripts/gpu_wheels.sh FOLDER --have FILE          without the packages that FILE lists, one a line
#                                                     (`pip freeze` of the other machine)
#
# PYTHON names the Python that collects them. Best is the one collected for: pip takes conditions such
# as `python_version < "3.13"` to speak of the Python that runs it.
#
# From Python 3.12 on, the scipy 1.10 that RAVE pins does not exist. 1.11 still has what RAVE takes
# from it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

folder="${1:?usage: scripts/gpu_wheels.sh FOLDER [--python 3.12] [--machine x86_64] [--have FILE]}"
shift
version=3.12 machine=x86_64 have=/dev/null
while [ $# -gt 0 ]; do
    case "$1" in
        --python) version="$2" ;;
        --machine) machine="$2" ;;
        --have) have="$2" ;;
        *) printf 'error: unknown option %s\n' "$1" >&2; exit 2 ;;
    esac
    shift 2
done
python="${PYTHON:-$(command -v "python$version" || command -v python3)}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"
if [ -n "$(ls "$folder")" ]; then
    printf 'error: %s is not empty\n' "$folder" >&2
    exit 2
fi
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# The only one that exists as sources alone; it is pure Python.
pip wheel --quiet --no-deps --wheel-dir "$folder" GPUtil
# By itself, for nothing fulfils its pins on every Python.
pip download --quiet --no-deps --dest "$folder" acids-rave==2.3.1

"$python" - "$root/pyproject.toml" "$folder"/acids_rave-*.whl "$work" "$version" <<'END'
"""Writes what pip is to collect, and empty wheels that stand for the other machine's torch."""
import re
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

project, rave, work, version = sys.argv[1:]
with ZipFile(rave) as wheel:
    (metadata,) = [name for name in wheel.namelist() if name.endswith("dist-info/METADATA")]
    needs = re.findall(r"^Requires-Dist: ([^\n;]+)$", wheel.read(metadata).decode(), re.M)
needs += tomllib.loads(Path(project).read_text())["project"]["dependencies"]
# The check reads no audio files, for which ffmpeg is.
left_out = {"acids-rave", "imageio-ffmpeg"}
instead = []
if int(version.split(".")[1]) >= 12:
    left_out.add("scipy")
    instead.append("scipy>=1.11,<1.12")
kept = [need for need in needs if re.match(r"[\w.-]+", need)[0] not in left_out] + instead
Path(work, "requirements.txt").write_text("\n".join(kept))
for name in ("torch", "torchaudio"):
    info = f"{name}-2.11.0+there.dist-info"
    with ZipFile(f"{work}/{name}-2.11.0+there-py3-none-any.whl", "w") as wheel:
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.11.0+there\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
END

platforms=()
for tag in any manylinux1 manylinux2010 manylinux2014 $(seq -f manylinux_2_%g 5 39); do
    [ "$tag" = any ] && platforms+=(--platform any) || platforms+=(--platform "${tag}_$machine")
done
printf '%s==2.11.0+there\n' torch torchaudio >"$work/constraints.txt"
pip download --quiet --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --find-links "$work" --find-links "$folder" \
    --constraint "$work/constraints.txt" --requirement "$work/requirements.txt" --dest "$folder"
rm -f "$folder"/torch-*.whl "$folder"/torchaudio-*.whl

# What the other machine has is left out, unless RAVE needs this very version.
sed 's/[=<> @].*//; s/[-_.]\+/_/g' "$have" | tr '[:upper:]' '[:lower:]' | while read -r name; do
    case "$name" in
        numpy | scipy | setuptools | pytorch_lightning) ;;
        ?*) find "$folder" -iname "$name-*.whl" -delete ;;
    esac
done
printf '%s wheels, %s, in %s\n' "$(find "$folder" -name '*.whl' | wc -l)" \
    "$(du -sh "$folder" | cut -f1)" "$folder"
