"""Layers: imports only point down, and third-party libraries stay in their packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "latentdiff"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Packages from the bottom up; an import may only point to a lower layer. Layer 0 needs no torch.
GROUND = ("specs", "errors", "interrupt", "run_length", "split", "synth", "child")
LAYERS = (
    GROUND,
    ("streaming", "config", "runs", "torchaudio_guard"),
    ("networks", "diffusion", "latents", "conditions", "audio", "tracking"),
    ("training", "evaluation", "rave"),
    # Deliberate mistakes replace parts of training, so they stand above it and below the model.
    ("notebook.experiments",),
    ("model",),
    ("commands", "diagnose", "notebook"),
    ("cli", "api"),
    ("__main__",),
)
LAYER_OF = {package: number for number, layer in enumerate(LAYERS) for package in layer}
# Modules that command-line help and config reading pass through: they must not import torch.
LIGHT = (*GROUND, "config", "runs", "tracking")

RAVE_ONLY = ("rave", "gin", "absl", "pytorch_lightning", "cached_conv", "udls", "lmdb")

# Third-party library -> the only packages that may import it.
PACKAGES_OF = {
    **{name: {"rave"} for name in RAVE_ONLY},
    "click": {"cli"},
    "lightning": {"training"},
    "soundfile": {"audio", "commands"},
    "imageio_ffmpeg": {"audio", "commands"},
}


def package_of(module: str) -> str:
    """`latentdiff.rave.codec` -> `rave`: the innermost package that LAYERS names."""
    parts = module.split(".")[1:]
    inner = ".".join(parts[:2])
    return inner if inner in LAYER_OF else parts[0]


def module_of(path: Path) -> str:
    """`latentdiff/rave/codec.py` -> `latentdiff.rave.codec`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


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


def modules_imported(path: Path) -> set[str]:
    """Our own modules that a file imports: `from latentdiff.a import b` is a.b or a name of a."""
    ours = {module_of(module) for module in MODULES}
    names = [name for name in imports(path) if name.startswith("latentdiff.")]
    return {name if name in ours else name.rpartition(".")[0] for name in names} - {"latentdiff"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    if path == PACKAGE / "__init__.py":
        return
    here = package_of(module_of(path))
    for name in modules_imported(path):
        there = package_of(name)
        below = LAYER_OF[there] < LAYER_OF[here]
        # Single modules of the lower layers may import each other.
        ground = LAYER_OF[there] == LAYER_OF[here] <= 1
        assert there == here or below or ground, f"{here} imports {name}"


def test_no_two_files_import_each_other():
    graph = {module_of(path): modules_imported(path) for path in MODULES}
    for here, imported in graph.items():
        for there in imported - {here}:
            assert here not in graph[there], f"{here} and {there} import each other"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_libraries_stay_in_their_room(path):
    for name in imports(path):
        packages = PACKAGES_OF.get(name.split(".")[0])
        assert packages is None or package_of(module_of(path)) in packages, (
            f"{path.name} imports {name}"
        )


def test_no_module_is_a_novel():
    for path in MODULES:
        assert lines(path) <= 400, path


def test_commands_stay_thin():
    assert sum(lines(path) for path in MODULES if "commands" in path.parts) <= 4500


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


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
floor0 = [n for n in {names!r} if n.split('.')[1] in {LIGHT!r}]
for name in floor0: importlib.import_module(name)
assert 'torch' not in sys.modules, 'layer 0 imports torch'
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
