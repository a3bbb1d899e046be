"""Views of clips as sequences of frames: timbre, movement, events, direction of time, and seams.

Clips whose frames are shuffled keep their timbre and lose their movement. A Gaussian process, or
clips with random phases, keep their movement and lose their events: sudden changes, notes that
start together. Reversed clips keep all of these, but sounds no longer start faster than they end.
Clips that are put together from pieces have breaks where these meet.

Shapes: B clips, C channels (latent directions or groups of mel bands), K mel bands, T frames, F
features. z: channels [B, C, T] with mean 0 and deviation 1 in each clip.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LAGS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between the frames that are compared, if they fit into half a clip."""
NOTE = 0.8
"""Longest lag in seconds of events and of the direction of time: about the length of a note."""
WINDOWS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Seconds on either side of a moment that are compared to find a seam."""
CHANNELS = 16
"""Latent directions that are looked at: the first ones, which hold most of the variance."""
BANDS = 8
"""Groups of mel bands."""
SHORTEST = 8
"""Frames of the shortest clip that can be described."""

_STEADY = 1e-3
"""A channel that deviates less within a clip counts as constant: what is left is rounding."""


def describe_latents(clips: Tensor, rate: float) -> dict[str, Tensor]:
    """Features [B, F] by view of whitened latents [B, C, T] at `rate` frames a second.

    Raises ValueError for clips of less than SHORTEST frames.
    """
    return _describe(clips[:, :CHANNELS], rate)


def describe_levels(levels: Tensor, rate: float) -> dict[str, Tensor]:
    """Features [B, F] by view of log-mel spectrograms [B, K, T] in dB, `rate` frames a second.

    The mean level of each clip is taken out: loudness is measured by itself. Raises ValueError for
    clips of less than SHORTEST frames.
    """
    groups = levels.tensor_split(min(BANDS, levels.shape[1]), dim=1)
    bands = torch.stack([group.mean(dim=1) for group in groups], dim=1)
    return _describe(bands - bands.mean(dim=(1, 2), keepdim=True), rate)


def _describe(x: Tensor, rate: float) -> dict[str, Tensor]:
    frames = x.shape[-1]
    if frames < SHORTEST:
        raise ValueError(f"clips of {frames} frames are too short to describe")
    x, z = x.float(), _standard(x.float())
    lags, within_note = _lags(rate, frames), _lags(rate, frames, NOTE)
    return {
        "timbre": timbre(x, z),
        "movement": movement(z, lags),
        "events": events(z, within_note),
        "direction": direction(z, within_note),
        "seams": seams(z, _windows(rate, frames)),
    }


def _lags(rate: float, frames: int, longest: float = math.inf) -> list[int]:
    """Different lags in frames, at least one."""
    lags = {max(1, round(seconds * rate)) for seconds in LAGS if seconds <= longest}
    return sorted(lag for lag in lags if lag == min(lags) or lag <= frames // 2)


def _windows(rate: float, frames: int) -> list[int]:
    """Lengths in frames of the two windows whose difference makes a seam."""
    return sorted({max(1, min(round(seconds * rate), frames // 4)) for seconds in WINDOWS})


def timbre(x: Tensor, z: Tensor) -> Tensor:
    """Mean, log deviation and correlations of the channels, whatever the order of the frames."""
    deviation = x.std(dim=-1, correction=0).clamp(min=_STEADY).log()
    correlation = z @ z.transpose(1, 2) / x.shape[-1]
    above = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([x.mean(dim=-1), deviation, correlation[:, above[0], above[1]]], dim=1)


def movement(z: Tensor, lags: list[int]) -> Tensor:
    """Autocorrelation of each channel: how fast it changes, and what repeats."""
    return _autocorrelation(z, lags)


def events(z: Tensor, lags: list[int]) -> Tensor:
    """How unlike Gaussian noise the changes are: seldom and large, in all channels at once.

    L-skewness and L-kurtosis of each channel, L-kurtosis of its changes over each lag; L-variation,
    L-skewness and L-kurtosis of the size of these changes over all channels together; and the
    autocorrelation of the magnitude of changes, which a Gaussian process gives no bursts.
    """
    found = list(_l_ratios(z)[1:])
    for lag in lags:
        change = _change(z, lag)
        found.append(_l_ratios(change)[2])
        found += _l_ratios(change.square().mean(dim=1, keepdim=True).sqrt())
    return torch.cat([*found, _autocorrelation(_standard(_change(z, 1).abs()), lags[:3])], dim=1)


def direction(z: Tensor, lags: list[int]) -> Tensor:
    """What changes its sign if time runs backwards.

    For each lag the L-skewness of the changes, and the third-order moment
    E[x(t)^2 x(t + lag)] - E[x(t) x(t + lag)^2] (Ramsey and Rothman 1996, Time irreversibility and
    business cycle asymmetry).
    """
    found = []
    for lag in lags:
        before, after = z[..., :-lag], z[..., lag:]
        found.append(_l_ratios(after - before)[1])
        found.append((before * after * (before - after)).mean(dim=-1))
    return torch.cat(found, dim=1)


def seams(z: Tensor, windows: list[int]) -> Tensor:
    """How much larger the greatest break of a clip is than its usual changes.

    Novelty (Foote 2000, Automatic audio segmentation using a measure of audio novelty) is the
    distance of the means of two adjacent windows, and of the logarithms of their deviations. For
    each length of the windows: the logarithms of its mean over time and of its maximum, and how far
    the maximum stands out above the 90 % quantile.
    """
    z = z.double()
    first, second = (
        torch.nn.functional.pad(part.cumsum(dim=-1), (1, 0)) for part in (z, z.square())
    )
    found = []
    for size in windows:
        mean, square = (_change(sums, size) / size for sums in (first, second))
        level = (square - mean.square()).clamp(min=_STEADY).log() / 2
        for feature in (mean, level):
            novelty = _change(feature, size).square().mean(dim=1).sqrt().clamp(min=_STEADY).log()
            highest = novelty.amax(dim=-1)
            usual = novelty.quantile(0.9, dim=-1)
            found += [novelty.mean(dim=-1), highest, highest - usual]
    return torch.stack(found, dim=1).float()


def _standard(x: Tensor) -> Tensor:
    """Each channel of each clip with mean 0 and deviation 1; 0 where it is constant."""
    x = x - x.mean(dim=-1, keepdim=True)
    return x / x.std(dim=-1, keepdim=True, correction=0).clamp(min=_STEADY)


def _change(z: Tensor, lag: int) -> Tensor:
    return z[..., lag:] - z[..., :-lag]


def _autocorrelation(z: Tensor, lags: list[int]) -> Tensor:
    lags = [lag for lag in lags if lag < z.shape[-1]]
    return torch.cat([(z[..., :-lag] * z[..., lag:]).mean(dim=-1) for lag in lags], dim=1)


def _l_ratios(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L-variation, L-skewness and L-kurtosis over the last axis (Hosking 1990, L-moments).

    They say what coefficient of variation, skewness and kurtosis say, but vary little from clip to
    clip, since no value enters with a power. Gaussian noise: skewness 0, kurtosis 0.123.
    """
    ordered = x.sort(dim=-1).values
    count = x.shape[-1]
    rank = torch.arange(count, dtype=x.dtype, device=x.device)
    # Probability-weighted moments b_r, unbiased: Hosking's equation for samples.
    weights = [torch.ones_like(rank)]
    for r in range(1, 4):
        weights.append(weights[-1] * (rank - r + 1) / (count - r))
    b0, b1, b2, b3 = ((ordered * weight).mean(dim=-1) for weight in weights)
    scale = (2 * b1 - b0).clamp(min=1e-6)
    skewness = (6 * b2 - 6 * b1 + b0) / scale
    kurtosis = (20 * b3 - 30 * b2 + 12 * b1 - b0) / scale
    return scale / b0.abs().clamp(min=1e-3), skewness.clamp(-1, 1), kurtosis.clamp(-1, 1)
