"""Latents and spectrograms as images, without a plotting library.

Shapes: C latent channels, H height, K mel bands, M mel frames, T latent frames, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# From dark to light through purple and orange, evenly spaced: RGB.
ANCHORS = np.array([[0, 0, 6], [58, 18, 100], [150, 36, 108], [236, 94, 60], [250, 240, 170]])
LATENT_RANGE = 3.0
"""Standard deviations of final latents to either end of the colours."""
GAP = 4
"""White rows between images."""
TALL, WIDE = 96, 400
"""Least size of an image in pixels; smaller ones are enlarged by integer factors."""


def colours(values: np.ndarray) -> np.ndarray:
    """[H, W] in 0..1 (clipped) -> uint8 [H, W, 3]."""
    places = np.linspace(0, 1, len(ANCHORS))
    rgb = [np.interp(values, places, ANCHORS[:, k]) for k in range(3)]
    return np.stack(rgb, axis=-1).round().astype(np.uint8)


def stacked_latents(x: np.ndarray) -> np.ndarray:
    """Final latents [B, C, T] as uint8 [H, W, 3], one sample per row, channel 0 on top."""
    return _stacked([0.5 + part / (2 * LATENT_RANGE) for part in x])


def stacked_spectrograms(mels: Sequence[np.ndarray]) -> np.ndarray:
    """Mel spectrograms [K, M] in 0..1 as uint8 [H, W, 3], one per row, low bands at the bottom."""
    return _stacked([mel[::-1] for mel in mels])


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    pictures = [_enlarged(colours(part)) for part in parts]
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        rows.append(_padded(picture, width))
        rows.append(np.full((GAP, width, 3), 255, np.uint8))
    return np.concatenate(rows[:-1])


def _enlarged(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    return picture.repeat(-(-TALL // height), axis=0).repeat(-(-WIDE // width), axis=1)


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    missing = width - picture.shape[1]
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)
