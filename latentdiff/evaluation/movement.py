"""Views of clips as sequences of frames: timbre, movement, events, and the direction of time.

Clips whose frames are shuffled keep their timbre and lose their movement. A Gaussian process, or
clips with random phases, keep their movement and lose their events: sudden changes, notes that
start together. Reversed clips keep all of these, but sounds no longer start faster than they end.

Shapes: B clips, C channels (latent directions or groups of mel bands), K mel bands, T frames, F
features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentdiff.evaluation.views import View

LAGS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between the frames that are compared, if they fit into half a clip."""
NOTE = 0.8
"""Longest lag in seconds of events and of the direction of time: about the length of a note."""
CHANNELS = 16
"""Latent directions that are looked at: the first ones, which hold most of the variance."""
BANDS = 8
"""Groups of mel bands."""
SHORTEST = 8
"""Frames of the shortest clip that can be described."""

_STEADY = 1e-3
"""A channel that deviates less within a clip counts as constant: what is left is rounding."""

Aspect = Callable[[Tensor, list[int]], Tensor]
"""Clips [B, C, T] and lags in frames -> features [B, F]."""


def latent_views(rate: float) -> list[View]:
    """Views of whitened latents [B, C, T] at `rate` frames a second."""
    return _views(lambda z: z[:, :CHANNELS], rate)


def sound_views(rate: float) -> list[View]:
    """Views of log-mel spectrograms [B, K, T] in dB at `rate` frames a second.

    The mean level of each clip is taken out: loudness is measured by itself.
    """
    return _views(_band_levels, rate)


def _band_levels(mels: Tensor) -> Tensor:
    """[B, K, T] dB -> [B, C, T] dB around the mean level of the clip."""
    groups = mels.tensor_split(min(BANDS, mels.shape[1]), dim=1)
    levels = torch.stack([group.mean(dim=1) for group in groups], dim=1)
    return levels - levels.mean(dim=(1, 2), keepdim=True)


def _views(channels: Callable[[Tensor], Tensor], rate: float) -> list[View]:
    def view(name: str, aspect: Aspect, longest: float) -> View:
        def describe(clips: Tensor) -> Tensor:
            x = channels(clips).float()
            if x.shape[-1] < SHORTEST:
                raise ValueError(f"clips of {x.shape[-1]} frames are too short to describe")
            return aspect(x, _lags(rate, x.shape[-1], longest))

        return View(name, describe)

    return [
        view("timbre", timbre, LAGS[-1]),
        view("movement", movement, LAGS[-1]),
        view("events", events, NOTE),
        view("direction", direction, NOTE),
    ]


def _lags(rate: float, frames: int, longest: float) -> list[int]:
    """Different lags in frames, at least one."""
    lags = {max(1, round(seconds * rate)) for seconds in LAGS if seconds <= longest}
    return sorted(lag for lag in lags if lag == min(lags) or lag <= frames // 2)


def timbre(x: Tensor, lags: list[int]) -> Tensor:
    """Mean, log deviation and correlations of the channels, whatever the order of the frames."""
    deviation = x.std(dim=-1, correction=0).clamp(min=_STEADY).log()
    z = _standard(x)
    correlation = z @ z.transpose(1, 2) / x.shape[-1]
    above = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([x.mean(dim=-1), deviation, correlation[:, above[0], above[1]]], dim=1)


def movement(x: Tensor, lags: list[int]) -> Tensor:
    """Autocorrelation of each channel: how fast it changes, and what repeats."""
    return _autocorrelation(_standard(x), lags)


def events(x: Tensor, lags: list[int]) -> Tensor:
    """How unlike Gaussian noise the changes are: seldom and large, in all channels at once.

    L-skewness and L-kurtosis of each channel, L-kurtosis of its changes over each lag; L-variation,
    L-skewness and L-kurtosis of the size of these changes over all channels together; and the
    autocorrelation of the magnitude of changes, which a Gaussian process gives no bursts.
    """
    z = _standard(x)
    found = list(_l_ratios(z)[1:])
    for lag in lags:
        change = _change(z, lag)
        found.append(_l_ratios(change)[2])
        found += _l_ratios(change.square().mean(dim=1, keepdim=True).sqrt())
    return torch.cat([*found, _autocorrelation(_standard(_change(z, 1).abs()), lags[:3])], dim=1)


def direction(x: Tensor, lags: list[int]) -> Tensor:
    """What changes its sign if time runs backwards.

    For each lag the L-skewness of the changes, and the third-order moment
    E[x(t)^2 x(t + lag)] - E[x(t) x(t + lag)^2] (Ramsey and Rothman 1996, Time irreversibility and
    business cycle asymmetry).
    """
    z = _standard(x)
    found = []
    for lag in lags:
        before, after = z[..., :-lag], z[..., lag:]
        found.append(_l_ratios(after - before)[1])
        found.append((before * after * (before - after)).mean(dim=-1))
    return torch.cat(found, dim=1)


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
