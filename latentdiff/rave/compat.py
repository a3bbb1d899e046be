"""Makes acids-rave importable, and usable as a library that leaves the process as it found it.

acids-rave 2.3.1 keeps its configuration in globals: gin's bindings accumulate from one model to the
next, every model writes its loss weights into one shared dict, and cached_conv's streaming switch
stays as the last user left it. `isolated_gin` gives one model a clean state and restores the old
one afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from latentdiff.errors import UserError
from latentdiff.rave.scipy_guard import old_scipy
from latentdiff.torchaudio_guard import import_torchaudio

log = logging.getLogger(__name__)

_FOREIGN_LOGGERS = ("pytorch_lightning", "lightning_fabric")

_lock = threading.RLock()


@cache
def prepare() -> None:
    """Make `import rave`, `import gin`, `import pytorch_lightning` and `import udls` work.

    A torchaudio that does not match torch (no CUDA, or another one) is made importable first.
    Raises UserError where a package is missing or too new.
    """
    import_torchaudio()
    with quiet():
        try:
            # Its namespace declaration needs pkg_resources, which setuptools 81 dropped.
            importlib.import_module("pkg_resources")
            importlib.import_module("pytorch_lightning")
            with old_scipy():
                importlib.import_module("rave")
        except ImportError as error:
            raise _explain(error) from error
    _loss_weights()


def _explain(error: ImportError) -> UserError:
    missing = (error.name or "").split(".")[0]
    if missing in ("pkg_resources", "distutils"):
        return UserError(
            "RAVE cannot be imported",
            why=f"it needs '{missing}', which setuptools 81 dropped",
            do_this='pip install "setuptools<81"',
        )
    return UserError(
        "RAVE cannot be imported",
        why=str(error),
        do_this=f"{install_command()}; `latentdiff doctor` checks it.",
    )


def install_command(python: tuple[int, ...] = sys.version_info[:2]) -> str:
    """The line that installs RAVE: from Python 3.12 on its pin of scipy cannot be met."""
    if python >= (3, 12):
        return 'pip install --no-deps "acids-rave==2.3.1"'
    return 'pip install "acids-rave==2.3.1" "setuptools<81"'


@cache
def _loss_weights() -> dict[str, float]:
    """RAVE's default loss weights as they were before any model changed them."""
    from rave import model

    return dict(model._default_loss_weights)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, prints go to our debug log, and foreign warnings and log lines are dropped.

    Do not log inside: what a log handler writes to stdout would be caught too.
    """
    printed = io.StringIO()
    try:
        with quiet_warnings(), contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            log.debug("rave: %s", line)


@contextlib.contextmanager
def quiet_warnings() -> Iterator[None]:
    """Within it, foreign warnings and log lines below ERROR are dropped."""
    loggers = [logging.getLogger(name) for name in _FOREIGN_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def isolated_gin() -> Iterator[None]:
    """Within it, gin, RAVE and cached_conv are as freshly imported; then their old state returns.

    A model built inside works outside too, except for training: its losses query gin when called.
    Config files are looked up in the wheel only, never in the current directory.
    """
    prepare()
    import cached_conv
    import gin
    from gin import config as state
    from rave import model

    with _lock:
        before = _GinState.capture(state)
        streaming = cached_conv.USE_BUFFER_CONV
        weights = model._default_loss_weights
        try:
            gin.clear_config()
            state._LOCATION_PREFIXES[:] = _search_path()
            cached_conv.use_cached_conv(False)
            # A new dict: the model keeps a reference to it, and the next one must not share it.
            model._default_loss_weights = dict(_loss_weights())
            yield
        finally:
            before.restore(state)
            cached_conv.use_cached_conv(streaming)
            model._default_loss_weights = weights


def _search_path() -> list[str]:
    import rave

    folder = Path(rave.__file__).parent
    return [str(folder), str(folder / "configs"), str(folder / "configs" / "augmentations")]


_CONTAINERS = ("_CONFIG", "_OPERATIVE_CONFIG", "_SINGLETONS", "_IMPORTS")


@dataclass(frozen=True)
class _GinState:
    """The globals of `gin.config` that parsing and building change."""

    containers: tuple[dict[object, object] | set[object], ...]
    """Copies of `_CONTAINERS`, in their order."""
    prefixes: tuple[str, ...]
    locked: bool

    @classmethod
    def capture(cls, state: ModuleType) -> _GinState:
        copies = tuple(copy(getattr(state, name)) for name in _CONTAINERS)
        return cls(copies, tuple(state._LOCATION_PREFIXES), bool(state.config_is_locked()))

    def restore(self, state: ModuleType) -> None:
        # In place: gin's own functions hold references to these containers.
        for name, saved in zip(_CONTAINERS, self.containers, strict=True):
            container = getattr(state, name)
            container.clear()
            container.update(saved)
        state._LOCATION_PREFIXES[:] = self.prefixes
        state._set_config_is_locked(self.locked)
