"""Ctrl-C that waits for a moment at which stopping loses nothing."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within it the first Ctrl-C or SIGTERM is only noted; the second one acts at once.

    `if stop.requested:` belongs where state is whole, between two steps. Use as a context manager;
    the handlers found are put back. Outside the main thread, where Python delivers no signals, it
    does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        """Set while nothing would be lost by stopping right here."""

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()
        self._before = {n: signal.signal(n, self._handle) for n in SIGNALS} if main else {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: it was not set from Python, and cannot be given back as it was.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self.at_once:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after this step and saving; once more stops at once")
