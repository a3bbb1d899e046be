"""The guard around `import torchaudio`, on packages made here that fail the way wheels do."""

from __future__ import annotations

import subprocess
import sys

import pytest

USES_THE_EXTENSION = """
from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align
from torchaudio._extension import lazy_import_sox_ext
sox = lazy_import_sox_ext()
@fail_if_no_align
def align(x):
    return x
"""
EXTENSIONS = {
    "cpu-only torch": "raise OSError('libc10_cuda.so: cannot open shared object file')",
    "another cuda": "raise RuntimeError('compiled with different CUDA versions')",
    "matching": """
_IS_TORCHAUDIO_EXT_AVAILABLE = True
fail_if_no_align = lambda function: function
def lazy_import_sox_ext(): pass
""",
}


@pytest.fixture
def python(tmp_path):
    """Runs code where `torchaudio` is a package with this extension and this body."""

    def run(extension, body, code):
        package = tmp_path / "torchaudio"
        (package / "_extension").mkdir(parents=True)
        (package / "_extension" / "__init__.py").write_text(extension)
        (package / "__init__.py").write_text("from . import _extension, functional\n")
        (package / "functional.py").write_text(body)
        path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("case", ["cpu-only torch", "another cuda"])
def test_an_extension_that_does_not_load_is_stood_in_for(python, case):
    output = python(
        EXTENSIONS[case],
        USES_THE_EXTENSION,
        """
from latentdiff.torchaudio_guard import import_torchaudio, torchaudio_status
torchaudio = import_torchaudio()
assert torchaudio is import_torchaudio() is sys.modules["torchaudio"]
assert torchaudio.functional._IS_TORCHAUDIO_EXT_AVAILABLE is False
assert torchaudio.functional.align(3) == 3
assert torchaudio.functional.sox.is_available() is False
print(torchaudio_status())
""",
    )
    assert output.startswith("guarded: ") and ("CUDA" in output or "libc10_cuda" in output)


def test_a_matching_pair_is_left_alone(python):
    output = python(
        EXTENSIONS["matching"],
        USES_THE_EXTENSION,
        """
from latentdiff.torchaudio_guard import import_torchaudio, torchaudio_status
assert import_torchaudio().functional._IS_TORCHAUDIO_EXT_AVAILABLE is True
print(torchaudio_status())
""",
    )
    assert output == "native\n"


@pytest.mark.parametrize("case", list(EXTENSIONS))
def test_what_is_broken_beyond_the_extension_is_an_error_and_leaves_no_trace(python, case):
    python(
        EXTENSIONS[case],
        "raise ImportError('torch is of another year')",
        """
from latentdiff.errors import UserError
from latentdiff.torchaudio_guard import import_torchaudio
try:
    import_torchaudio()
except UserError as error:
    assert "torch is of another year" in str(error) and "pip install" in str(error)
else:
    raise SystemExit("no error")
assert not [name for name in sys.modules if name.startswith("torchaudio")]
""",
    )


def test_a_missing_torchaudio_is_an_error():
    code = """
import sys
import importlib.abc
class Nobody(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchaudio":
            raise ModuleNotFoundError("No module named 'torchaudio'", name=name)
sys.meta_path.insert(0, Nobody())
from latentdiff.errors import UserError
from latentdiff.torchaudio_guard import import_torchaudio
try:
    import_torchaudio()
except UserError as error:
    assert "torchaudio cannot be imported" in str(error)
else:
    raise SystemExit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_real_one_resamples():
    import torch

    from latentdiff.torchaudio_guard import import_torchaudio, torchaudio_status

    made = import_torchaudio().functional.resample(torch.zeros(1, 480), 48000, 44100)
    assert made.shape == (1, 441)
    assert torchaudio_status().startswith(("native", "guarded: "))
