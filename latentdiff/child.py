"""Commands of our own run as processes of their own."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from typing import Any


def wait(words: list[str], output: Any = None) -> int:
    """The exit code of a child process; an interrupt is handed on to it, once, and waited for.

    `output`: open file that takes what it prints; None: where ours goes.
    """
    # Its own session: else the terminal's Ctrl-C would reach it beside ours, and the second one
    # could break the saving that the first one began.
    process = subprocess.Popen(words, start_new_session=True, stdout=output, stderr=output)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
