"""Ctrl-C that takes effect only where stopping loses nothing."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager in which the first Ctrl-C or SIGTERM only sets `requested`.

    The second one raises KeyboardInterrupt at once. Check `stop.requested` between steps, where the
    state is consistent. Restores the previous handlers on exit. Does nothing outside the main
    thread, where Python delivers no signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        """Set this while stopping loses nothing: then the first signal raises."""

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()
        self._before = {n: signal.signal(n, self._handle) for n in SIGNALS} if main else {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not set from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self.at_once:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("stopping after this step, then saving; interrupt again to stop at once")
