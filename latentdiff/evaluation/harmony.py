"""Harmony of audio clips: how few pitch classes sound at a time, whether in a key, how they change.

Shapes: B clips, N audio samples, M frames of the chromagram, S stretches, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PITCHES = 12
"""Pitch classes, semitones above C."""
WINDOW_SECONDS = 0.19
"""Length of the STFT window, rounded to a power of two samples; the hop is half of it. It resolves
semitones from about 130 Hz upwards."""
LOWEST, HIGHEST = 100.0, 2500.0
"""Range in Hz of the partials that count."""
RANGE_DB = 50.0
"""Partials farther below the loudest of the clip do not count."""
WIDTH = 0.35
"""Deviation in semitones of the Gaussian that assigns a partial to pitch classes."""
STRETCH_SECONDS = 0.75
"""Stretches whose chords are compared with their neighbours: about a beat of slow music."""

# Krumhansl and Kessler 1982, Tracing the Dynamic Changes in Perceived Tonal Organization: ratings
# of how well each pitch class fits a key, from the tonic upwards.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclass(frozen=True)
class Chroma:
    """Chromagrams of clips."""

    values: Tensor
    """[B, 12, M], float32: the strength of each pitch class; not normalised, zero in silence."""
    rate: float
    """Frames a second."""
    tuning: Tensor
    """[B]: deviation of each clip from 440 Hz in semitones, -0.5..0.5."""


@dataclass(frozen=True)
class Harmony:
    """The harmony of clips; every field is [B]."""

    entropy: Tensor
    """Entropy of the pitch classes of a frame, weighted by loudness, 0..1. 0: a single pitch
    class; 1: all twelve alike. 1 for silence."""
    key_clarity: Tensor
    """Highest correlation of the mean chroma with the profiles of the 24 keys, -1..1."""
    key_margin: Tensor
    """That correlation less the highest one of another tonic, 0..2. (The best two of all keys are
    often a major key and the minor key of the same tonic.)"""
    change: Tensor
    """Mean distance of the tonal centroids of successive frames: Harte, Sandler and Gasser 2006,
    Detecting Harmonic Change in Musical Audio, eq. 3, per frame."""
    movement: Tensor
    """Mean distance of the tonal centroids of neighbouring stretches."""


def chromagrams(clips: Tensor, sample_rate: int) -> Chroma:
    """Chromagrams of mono clips [B, N] at `sample_rate` Hz.

    Only peaks of the magnitude spectrum count, each at its interpolated frequency and with its
    magnitude (Gomez 2006, Tonal Description of Music Audio Signals, section 3.2). They are
    assigned after the clip's tuning is taken out.
    """
    n_fft = 1 << round(math.log2(WINDOW_SECONDS * sample_rate))
    hop = n_fft // 2
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(clips.float(), n_fft, hop, window=window, return_complex=True).abs()
    low = math.ceil(LOWEST * n_fft / sample_rate)
    high = min(math.floor(HIGHEST * n_fft / sample_rate), n_fft // 2 - 1)
    level = 20 * torch.log10(spectrum[:, low - 1 : high + 2].clamp(min=1e-10))
    here, below, above = level[:, 1:-1], level[:, :-2], level[:, 2:]
    loudest = here.amax(dim=(1, 2), keepdim=True)
    # Levels above -190 dB: rounding errors of digital silence have peaks as well.
    peaks = (here > below) & (here >= above) & (here > (loudest - RANGE_DB).clamp(min=-100))
    # The vertex of the parabola through three levels in dB (Smith and Serra 1987, PARSHL, eq. 4).
    bend = (below - 2 * here + above).clamp(max=-1e-3)
    offset = (0.5 * (below - above) / bend).clamp(-0.5, 0.5)
    bins = torch.arange(low, high + 1)[None, :, None] + offset
    pitch = 12 * torch.log2(bins * sample_rate / n_fft / 440.0)
    weight = torch.where(peaks, 10 ** (here / 20), 0.0)
    tuning = _tuning(pitch, weight)
    values = _assigned(pitch - tuning[:, None, None], weight)
    return Chroma(values, sample_rate / hop, tuning)


def _tuning(pitch: Tensor, weight: Tensor) -> Tensor:
    """Circular mean [B] of the deviations of partials from whole semitones."""
    phase = 2 * math.pi * pitch
    vector = torch.stack([(weight * wave).sum(dim=(1, 2)) for wave in (phase.sin(), phase.cos())])
    return torch.atan2(vector[0], vector[1]) / (2 * math.pi)


def _assigned(pitch: Tensor, weight: Tensor) -> Tensor:
    """Sum of the weights [B, bins, M] by pitch class, [B, 12, M]; pitch in semitones above A."""
    chroma = []
    for pitch_class in range(PITCHES):
        apart = torch.remainder(pitch + 9 - pitch_class + 6, 12) - 6
        chroma.append((weight * torch.exp(-0.5 * (apart / WIDTH) ** 2)).sum(dim=1))
    return torch.stack(chroma, dim=1)


def measure(found: Chroma) -> Harmony:
    """The harmony of clips from their chromagrams."""
    chroma = found.values
    correlation = _key_correlation(chroma.mean(dim=-1))
    best_tonic = correlation.amax(dim=1).sort(dim=-1, descending=True).values
    centroids = _tonal_centroids(chroma)
    per_stretch = max(1, round(STRETCH_SECONDS * found.rate))
    return Harmony(
        entropy=_entropy(chroma),
        key_clarity=best_tonic[:, 0],
        key_margin=best_tonic[:, 0] - best_tonic[:, 1],
        change=_mean_step(centroids),
        movement=_mean_step(_tonal_centroids(_stretches(chroma, per_stretch))),
    )


def _entropy(chroma: Tensor) -> Tensor:
    strength = chroma.sum(dim=1)
    share = chroma / strength[:, None].clamp(min=1e-12)
    entropy = torch.special.entr(share).sum(dim=1) / math.log(PITCHES)
    total = strength.sum(dim=-1)
    mean = (strength * entropy).sum(dim=-1) / total.clamp(min=1e-12)
    return torch.where(total > 0, mean, 1.0)


def _key_correlation(chroma: Tensor) -> Tensor:
    """Pearson correlation of mean chromas [B, 12] with the major and minor keys: [B, 2, 12]."""
    profiles = torch.tensor([_MAJOR, _MINOR])
    keys = torch.stack([profiles.roll(tonic, dims=1) for tonic in range(PITCHES)], dim=1)
    keys, chroma = (x - x.mean(dim=-1, keepdim=True) for x in (keys, chroma))
    products = torch.einsum("bp,mkp->bmk", chroma, keys)
    norms = chroma.norm(dim=-1)[:, None, None] * keys.norm(dim=-1)
    correlation: Tensor = products / norms.clamp(min=1e-12)
    return correlation


def _tonal_centroids(chroma: Tensor) -> Tensor:
    """Chroma [B, 12, M] -> [B, 6, M]: sines and cosines on the circles of fifths, minor and major
    thirds (Harte et al. 2006, eq. 1 and 2)."""
    pitch = torch.arange(PITCHES)
    circles = ((1.0, 7 / 6), (1.0, 3 / 2), (0.5, 2 / 3))
    rows = [
        radius * wave(math.pi * turn * pitch)
        for radius, turn in circles
        for wave in (torch.sin, torch.cos)
    ]
    share = chroma / chroma.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.einsum("rp,bpm->brm", torch.stack(rows), share)


def _stretches(chroma: Tensor, frames: int) -> Tensor:
    """Sums over stretches of `frames`, [B, 12, S]; the rest at the end is left out."""
    whole = chroma.shape[-1] // frames * frames
    sums: Tensor = chroma[..., :whole].unflatten(-1, (-1, frames)).sum(dim=-1)
    return sums


def _mean_step(centroids: Tensor) -> Tensor:
    """Mean distance [B] of neighbours; 0 where there is only one."""
    steps: Tensor = centroids.diff(dim=-1).norm(dim=1)
    return steps.mean(dim=-1) if steps.shape[-1] else steps.sum(dim=-1)


NAMES = ("entropy", "key clarity", "key margin", "change", "movement")
"""What the columns of `features` are."""


def features(chroma: Chroma) -> Tensor:
    """The harmony of clips as features [B, F], named by NAMES; float32 and finite."""
    found = measure(chroma)
    columns = (found.entropy, found.key_clarity, found.key_margin, found.change, found.movement)
    return torch.stack(columns, dim=1)
