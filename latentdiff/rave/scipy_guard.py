"""Gives RAVE the scipy that it was written for, where a newer one is installed.

acids-rave 2.3.1 pins scipy 1.10.0, which ends at Python 3.11. It takes from `scipy.signal` what has
changed since: `kaiser` is found in `scipy.signal.windows` only, and `firwin` no longer knows `nyq`,
half of the sample rate. It also hands `kaiserord` an array of one width, which newer numpys do not
take for a number.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np


@contextmanager
def old_scipy() -> Iterator[None]:
    """Within it, `scipy.signal` has what RAVE imports from it; then it is as it was.

    What was imported within keeps working after it.
    """
    from scipy import signal

    module: Any = signal
    given = {"kaiser": signal.windows.kaiser, "kaiserord": _of_one_width(signal.kaiserord)}
    if "nyq" not in inspect.signature(signal.firwin).parameters:
        given["firwin"] = _with_nyq(signal.firwin)
    before = {name: getattr(module, name) for name in given if hasattr(module, name)}
    try:
        vars(module).update(given)
        yield
    finally:
        for name in given:
            delattr(module, name)
        vars(module).update(before)


def _of_one_width(kaiserord: Any) -> Any:
    """scipy's `kaiserord`, which also takes an array of one width."""

    @wraps(kaiserord)
    def of_one_width(ripple: float, width: Any) -> Any:
        return kaiserord(ripple, np.asarray(width).item())

    return of_one_width


def _with_nyq(firwin: Any) -> Any:
    """scipy's `firwin`, which also takes `nyq`."""

    @wraps(firwin)
    def with_nyq(*args: Any, nyq: float | None = None, **kwargs: Any) -> Any:
        if nyq is not None:
            kwargs["fs"] = 2 * nyq
        return firwin(*args, **kwargs)

    return with_nyq
