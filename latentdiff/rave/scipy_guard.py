"""Gives RAVE the scipy that it was written for, where a newer one is installed.

acids-rave 2.3.1 pins scipy 1.10.0, which ends at Python 3.11. It takes two functions from
`scipy.signal` that have changed since: `kaiser` is found in `scipy.signal.windows` only, and
`firwin` no longer knows `nyq`, half of the sample rate.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


@contextmanager
def old_scipy() -> Iterator[None]:
    """Within it, `scipy.signal` has what RAVE imports from it; then it is as it was.

    What was imported within keeps working after it.
    """
    from scipy import signal

    module: Any = signal
    before = {name: getattr(module, name, None) for name in ("kaiser", "firwin")}
    try:
        if before["kaiser"] is None:
            module.kaiser = signal.windows.kaiser
        if "nyq" not in inspect.signature(signal.firwin).parameters:
            module.firwin = _with_nyq(signal.firwin)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                delattr(module, name)
            else:
                setattr(module, name, value)


def _with_nyq(firwin: Any) -> Any:
    """scipy's `firwin`, which also takes `nyq`."""

    @wraps(firwin)
    def with_nyq(*args: Any, nyq: float | None = None, **kwargs: Any) -> Any:
        if nyq is not None:
            kwargs["fs"] = 2 * nyq
        return firwin(*args, **kwargs)

    return with_nyq
