"""`import torchaudio` that works with any build of torch.

torchaudio's wheel contains a native extension built for one CUDA version. It does not load with a
CPU-only torch or with another CUDA version. What is used here (resampling, mel spectrograms, and
what RAVE needs) is pure Python, so if the extension cannot load, an inert one replaces it and
torchaudio is imported again.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import NoReturn, TypeVar

from latentdiff.errors import UserError

_EXTENSION = "torchaudio._extension"

F = TypeVar("F")

_lock = threading.RLock()


def import_torchaudio() -> ModuleType:
    """The torchaudio module, with its native extension if that loads, else with an inert one.

    Raises UserError if torchaudio is missing, or its Python part is broken too; `sys.modules` is
    then unchanged.
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
    """Replaces `torchaudio._extension`: every flag is False, every decorator does nothing.

    The names differ between versions of torchaudio, so their prefix decides what each one is.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_EXTENSION)
        self.reason = reason

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("fail_if_no"):
            return _unchanged
        if name.startswith("lazy_import"):
            return _Absent
        return False


class _Absent:
    """Replaces an extension that torchaudio would load on first use."""

    def is_available(self) -> bool:
        return False


def _unchanged(function: F) -> F:
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
    """Remove every trace of a torchaudio import that did not finish."""
    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _give_up(error: Exception) -> NoReturn:
    raise UserError(
        "torchaudio cannot be imported",
        why=f"{type(error).__name__}: {error}",
        do_this="install matching versions of torch and torchaudio, for example "
        "`pip install --force-reinstall torch torchaudio`; `latentdiff doctor` checks it.",
    ) from error
