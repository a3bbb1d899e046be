"""Runs commands of ours as child processes."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from typing import IO


def wait(words: list[str], output: IO[str] | None = None) -> int:
    """Run a child process and return its exit code.

    On Ctrl-C, interrupts the child once, waits for it, and raises KeyboardInterrupt. `output`: an
    open file for everything it prints; None: it prints where we do.
    """
    # A session of its own: otherwise the terminal's Ctrl-C would reach the child too, and a second
    # interrupt could break off the saving that the first one started.
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
