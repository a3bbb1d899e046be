"""Sound as the bytes of a wav file, for players that take no path."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def wav_bytes(samples: NDArray[np.floating[Any]], sample_rate: int) -> bytes:
    """Samples [channels, N] in -1..1, louder ones clipped, as 16-bit PCM."""
    import soundfile

    buffer = io.BytesIO()
    clipped = np.clip(samples.T, -1, 1)
    soundfile.write(buffer, clipped, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
