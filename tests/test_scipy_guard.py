"""RAVE beside a newer scipy: given what it needs while it is imported, and scipy left as found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from latentdiff.rave.compat import install_command
from latentdiff.rave.scipy_guard import old_scipy

NAMES = ("kaiser", "kaiserord", "firwin")


def here():
    return {name: getattr(signal, name, None) for name in NAMES}


def test_what_rave_takes_from_scipy_works_and_scipy_is_as_it_was():
    before = here()
    with old_scipy():
        from scipy.signal import firwin, kaiser, kaiserord
    assert here() == before
    taps, beta = kaiserord(100, np.array([0.05]))
    assert (taps, beta) == signal.kaiserord(100, 0.05)
    np.testing.assert_array_equal(kaiser(9, beta), signal.windows.kaiser(9, beta))
    # A cutoff at a quarter of the sample rate, in radians.
    ours = firwin(9, np.pi / 2, window=("kaiser", beta), scale=False, nyq=np.pi)
    np.testing.assert_allclose(ours, signal.firwin(9, 0.5, window=("kaiser", beta), scale=False))


def test_scipy_is_as_it_was_after_a_failure_too():
    before = here()
    with pytest.raises(ZeroDivisionError), old_scipy():
        raise ZeroDivisionError
    assert here() == before


@pytest.mark.parametrize(("python", "pins"), [((3, 11), True), ((3, 12), False), ((3, 13), False)])
def test_the_line_that_installs_rave(python, pins):
    assert ("--no-deps" in install_command(python)) != pins
