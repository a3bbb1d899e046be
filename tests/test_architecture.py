"""The floors of the building: imports only point down, foreign libraries stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "latentdiff"
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = ("errors", "config", "runs", "tracking", "specs", "interrupt", "split", "torchaudio_guard")
FLOORS = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(["audio", "streaming", "synth", "conditioning"], 1),
    **dict.fromkeys(["rave", "latents", "diffusion", "networks"], 1),
    **dict.fromkeys(["training", "evaluation", "experiments"], 2),
    "workflows": 3,
    "cli": 4,
    "__main__": 5,
}

RAVE_ONLY = ("rave", "gin", "absl", "pytorch_lightning", "cached_conv", "udls", "lmdb")

# Foreign library -> the only rooms that may import it.
ROOM_OF = {
    **{name: {"rave"} for name in RAVE_ONLY},
    "click": {"cli"},
    "lightning": {"training"},
    "soundfile": {"audio", "workflows"},
    "imageio_ffmpeg": {"audio", "workflows"},
}


def room(path: Path) -> str:
    """`latentdiff/rave/codec.py` -> `rave`, `latentdiff/audio.py` -> `audio`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Dotted names of all modules imported anywhere in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        if not name.startswith("latentdiff.") or name == "latentdiff.__version__":
            continue
        there = name.split(".")[1]
        ground = FLOORS[there] == FLOORS[here] == 0
        assert there == here or ground or FLOORS[there] < FLOORS[here], f"{here} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_libraries_stay_in_their_room(path):
    for name in imports(path):
        rooms = ROOM_OF.get(name.split(".")[0])
        assert rooms is None or room(path) in rooms, f"{path.name} imports {name}"


def test_no_module_is_a_novel():
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 760, path


def test_scripts_is_not_a_package():
    # The acids-rave wheel installs top-level packages `scripts` and `tests`.
    assert not (PACKAGE.parent / "scripts" / "__init__.py").exists()
    assert not (PACKAGE.parent / "tests" / "__init__.py").exists()


def test_importing_everything_does_nothing():
    """No flags, no logging set-up, no grad switch, no device probe, by import alone."""
    names = [
        ".".join(("latentdiff", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in MODULES
        if path.stem not in ("__init__", "__main__")
    ]
    code = f"""
import importlib, logging, sys
floor0 = [n for n in {names!r} if n.split('.')[1] in {GROUND!r}]
for name in floor0: importlib.import_module(name)
assert 'torch' not in sys.modules, 'floor 0 imports torch'
for name in {names!r}: importlib.import_module(name)
import torch
assert torch.is_grad_enabled()
assert not torch.cuda.is_initialized()
assert not logging.getLogger('latentdiff').handlers
assert not logging.root.handlers
assert 'gin' not in sys.modules, 'rave must be imported on use'
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
