"""`import torchaudio` that works beside any build of torch.

torchaudio's wheel carries a native extension built for one CUDA version. Beside a CPU-only torch it
does not load, beside another CUDA it refuses to. What is used here (resampling, mel spectrograms,
and what RAVE needs of it) is pure Python, so where the extension cannot load, an inert one stands
in for it and torchaudio is imported again.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any, NoReturn

from latentdiff.errors import UserError

_EXTENSION = "torchaudio._extension"
_lock = threading.RLock()


def import_torchaudio() -> ModuleType:
    """The torchaudio module: native where its extension loads, else with an inert extension.

    Raises UserError where torchaudio is missing or broken in its Python part too; `sys.modules` is
    then as if nothing had been imported.
    """
    with _lock:
        if "torchaudio" in sys.modules:
            return sys.modules["torchaudio"]
        _forget()
        try:
            return importlib.import_module("torchaudio")
        except ModuleNotFoundError as error:
            _forget()
            _give_up(error)
        except (OSError, RuntimeError, ImportError, AttributeError) as error:
            _forget()
            return _import_guarded(error)


def torchaudio_status() -> str:
    """`native`, or `guarded: <why the native extension did not load>`; imports torchaudio.

    Raises UserError as `import_torchaudio` does.
    """
    import_torchaudio()
    extension = sys.modules.get(_EXTENSION)
    return f"guarded: {extension.reason}" if isinstance(extension, _Inert) else "native"


class _Inert(ModuleType):
    """Answers for `torchaudio._extension`: every flag False, every decorator leaves its function.

    The names differ between versions of torchaudio, so they are answered by their shape.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_EXTENSION)
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("fail_if_no"):
            return _unchanged
        if name.startswith("lazy_import"):
            return _Absent
        return False


class _Absent:
    """An extension that torchaudio would have loaded on first use."""

    def is_available(self) -> bool:
        return False


def _unchanged(function: Any) -> Any:
    return function


def _import_guarded(reason: BaseException) -> ModuleType:
    first_line = (str(reason) or type(reason).__name__).splitlines()[0]
    sys.modules[_EXTENSION] = _Inert(first_line)
    try:
        return importlib.import_module("torchaudio")
    except BaseException as error:
        _forget()
        if isinstance(error, Exception):
            _give_up(error)
        raise


def _forget() -> None:
    """Remove every trace of a torchaudio that was not imported to its end."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _give_up(error: Exception) -> NoReturn:
    raise UserError(
        "torchaudio cannot be imported",
        why=f"{type(error).__name__}: {error}",
        do_this="install torch and torchaudio of one version, for example "
        "`pip install --force-reinstall torch torchaudio`; `latentdiff doctor` checks it.",
    ) from error
