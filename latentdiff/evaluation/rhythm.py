"""Rhythm of audio clips: how periodic their onsets are, at which tempo, and how that tempo divides.

Shapes: B clips, N audio samples, K mel bands, M frames of a spectrogram, E frames of the onset
envelope, L lags, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.torchaudio_guard import import_torchaudio

SLOWEST, FASTEST = 50.0, 200.0
"""Range of the tempo, beats per minute."""
WINDOW_SECONDS = 0.046
"""Length of the STFT window, rounded to a power of two samples; the hop is a quarter of it."""
BANDS = 40
RANGE_DB = 60.0
"""Levels farther below the loudest band of a clip are raised to this: nobody hears their onsets."""
TREND_SECONDS = 0.5
"""Deviation of the Gaussian whose moving average is taken off the envelope: crescendos are no
rhythm, and the autocorrelation of a positive envelope would never fall to zero."""
SMOOTH_FRAMES = 1.5
"""Deviation of the Gaussian that blurs onsets, so that two played 10 ms apart still meet."""
TOLERANCE = 0.02
"""Relative deviation from a tempo that still counts as that tempo."""
FAVOURITE, FAVOURITE_OCTAVES = 110.0, 0.9
"""Centre (bpm) and deviation of the log-normal prior that settles between a tempo and its double;
close to Ellis 2007, Beat Tracking by Dynamic Programming, section 3.2."""
HARMONICS = 8
BEATS = (0.25, 0.5, 1.5, 2.0, 3.0, 4.0)
"""Lags in beats at which `features` gives the autocorrelation: subdivisions and bars."""
MARGIN = 0.15
"""An onset is a local maximum of the envelope above this share of the clip's strongest."""


@dataclass(frozen=True)
class OnsetEnvelopes:
    """How much louder each moment of a clip is than the moment before."""

    values: Tensor
    """[B, E], float32: of zero local mean. All zero where a clip has no onset."""
    rate: float
    """Frames a second."""


@dataclass(frozen=True)
class Rhythm:
    """The rhythm of clips; every field is [B]."""

    periodicity: Tensor
    """Autocorrelation of the onset envelope at the lag of the beat that suits it best, 0..1. White
    noise of ten seconds has about 0.1, a metronome 1."""
    tempo: Tensor
    """Beats per minute; a guess where periodicity is low."""
    clarity: Tensor
    """Share of the envelope's variance that repeats with every beat of one steady tempo, 0..1."""
    density: Tensor
    """Onsets a second."""


@dataclass(frozen=True)
class BandLevels:
    """Spectrograms of clips, fine enough in time to place onsets."""

    values: Tensor
    """[B, K, M] dB by mel band; those RANGE_DB below the clip's loudest band are raised to that."""
    rate: float
    """Frames a second."""


def band_levels(clips: Tensor, sample_rate: int) -> BandLevels:
    """Levels of mono clips [B, N] at `sample_rate` Hz in BANDS mel bands.

    All levels count relative to the clip's loudest band, so gain does not matter to what lies
    below it.
    """
    n_fft = 1 << round(math.log2(WINDOW_SECONDS * sample_rate))
    hop = n_fft // 4
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(clips.float(), n_fft, hop, window=window, return_complex=True)
    bands = import_torchaudio().functional.melscale_fbanks(
        n_fft // 2 + 1, 30.0, sample_rate / 2, BANDS, sample_rate, norm="slaney"
    )
    power = torch.einsum("bfe,fk->bke", spectrum.abs().square(), bands)
    level = 10 * torch.log10(power.clamp(min=1e-20))
    loudest = level.amax(dim=(1, 2), keepdim=True).clamp(min=-150.0)
    return BandLevels(torch.maximum(level, loudest - RANGE_DB), sample_rate / hop)


def onset_envelopes(clips: Tensor, sample_rate: int) -> OnsetEnvelopes:
    """Onset envelopes of mono clips [B, N] at `sample_rate` Hz; see `onsets`."""
    return onsets(band_levels(clips, sample_rate))


def onsets(levels: BandLevels) -> OnsetEnvelopes:
    """Onset envelopes of spectrograms.

    Spectral flux: the rise in dB from frame to frame, averaged over mel bands (Dixon 2006, Onset
    Detection Revisited, eq. 2, on log magnitudes), less its moving average.
    """
    rise = torch.diff(levels.values, dim=-1).clamp(min=0).mean(dim=1)
    return OnsetEnvelopes(_detrended(rise, levels.rate), levels.rate)


def _detrended(rise: Tensor, rate: float) -> Tensor:
    smooth = _blurred(rise, SMOOTH_FRAMES)
    return smooth - _blurred(smooth, TREND_SECONDS * rate)


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Gaussian moving average of [B, E]; at the edges, over the frames that there are."""
    reach = min(math.ceil(3 * deviation), x.shape[-1] - 1)
    steps = torch.arange(-reach, reach + 1, device=x.device)
    kernel = torch.exp(-0.5 * (steps / deviation) ** 2)[None, None]
    both = torch.stack([x, torch.ones_like(x)])[:, :, None].flatten(0, 1)
    summed = torch.nn.functional.conv1d(both, kernel, padding=reach)[:, 0]
    values, weights = summed.chunk(2)
    average: Tensor = values / weights
    return average


def autocorrelation(envelopes: Tensor) -> Tensor:
    """Autocorrelation of envelopes [B, E] at lags of 0 .. E // 2 frames: [B, L], 1 at lag 0.

    Each lag is divided by the energy of the two parts that overlap, so a steady pulse has 1 at
    every multiple of its period. Zero for an envelope of zeros.
    """
    length = envelopes.shape[-1]
    x = envelopes.double()
    spectrum = torch.fft.rfft(x, n=2 * length)
    products = torch.fft.irfft(spectrum.abs().square(), n=2 * length)[:, : length // 2 + 1]
    energy = torch.nn.functional.pad(x.square().cumsum(dim=-1), (1, 0))
    lags = torch.arange(length // 2 + 1, device=x.device)
    head = energy[:, length - lags]
    tail = energy[:, -1:] - energy[:, lags]
    correlation: Tensor = products / (head * tail).sqrt().clamp(min=1e-12)
    return correlation.float()


def at_lags(correlation: Tensor, lags: Tensor) -> Tensor:
    """Values of [B, L] at fractional frames [B, K], linear between frames; 0 beyond the last."""
    last = correlation.shape[-1] - 1
    low = lags.floor().long().clamp(0, last)
    share = (lags - low).clamp(0, 1)
    value = torch.lerp(
        correlation.gather(1, low), correlation.gather(1, (low + 1).clamp(max=last)), share
    )
    return torch.where(lags <= last, value, 0.0)


def _near(correlation: Tensor, lags: Tensor) -> Tensor:
    """The highest autocorrelation near each lag [B, K]: within TOLERANCE, or one frame."""
    reach = (TOLERANCE * lags).clamp(min=1.0)
    steps = torch.linspace(-1, 1, 9, device=lags.device)
    around = lags[..., None] + reach[..., None] * steps
    return at_lags(correlation, around.flatten(1)).view(around.shape).amax(dim=-1)


def periodicity_at(clips: Tensor, sample_rate: int, bpm: float | Tensor) -> Tensor:
    """Onset periodicity of clips [B, N] at a tempo asked for, bpm (one, or [B]): [B] in 0..1."""
    found = onset_envelopes(clips, sample_rate)
    lags = 60.0 * found.rate / torch.as_tensor(bpm, dtype=torch.float32).expand(len(clips))
    return _near(autocorrelation(found.values), lags[:, None])[:, 0].clamp(0, 1)


def tempo_of(clips: Tensor, sample_rate: int) -> Tensor:
    """Tempo of clips [B, N] in beats per minute [B]; see `Rhythm.tempo`."""
    return measure(onset_envelopes(clips, sample_rate)).tempo


def measure(found: OnsetEnvelopes) -> Rhythm:
    """The rhythm of clips from their onset envelopes."""
    correlation = autocorrelation(found.values)
    tempo = _refined(found, _tempo(correlation, found.rate))
    return Rhythm(
        periodicity=_periodicity(correlation, found.rate),
        tempo=tempo,
        clarity=_comb(found, tempo[:, None])[:, 0],
        density=_density(found),
    )


def _lag_range(rate: float, last: int) -> slice:
    """Frames from the lag of the fastest beat to that of the slowest one that fits."""
    return slice(math.ceil(60 * rate / FASTEST), min(last, math.floor(60 * rate / SLOWEST)) + 1)


def _periodicity(correlation: Tensor, rate: float) -> Tensor:
    return correlation[:, _lag_range(rate, correlation.shape[-1] - 1)].amax(dim=-1).clamp(0, 1)


def _tempo(correlation: Tensor, rate: float) -> Tensor:
    """The tempo [B] whose multiples the autocorrelation agrees with best, under the prior."""
    tempi = torch.exp2(torch.arange(math.log2(SLOWEST), math.log2(FASTEST), 1 / 240))
    lags = (60 * rate / tempi).expand(len(correlation), -1)
    # The beat itself counts twice: the double of a tempo agrees at all even multiples as well.
    weights = {1: 2.0, 2: 1.0, 3: 0.5, 4: 1.0}
    agreement = torch.stack([w * at_lags(correlation, m * lags) for m, w in weights.items()])
    prior = torch.exp(-0.5 * (torch.log2(tempi / FAVOURITE) / FAVOURITE_OCTAVES) ** 2)
    return tempi[(agreement.sum(dim=0) * prior).argmax(dim=-1)]


def _refined(found: OnsetEnvelopes, tempo: Tensor) -> Tensor:
    """The tempo [B] within TOLERANCE to which the whole clip is most steady."""
    candidates = tempo[:, None] * torch.linspace(1 - TOLERANCE, 1 + TOLERANCE, 41)
    best = _comb(found, candidates).argmax(dim=-1, keepdim=True)
    return candidates.gather(1, best)[:, 0]


def _comb(found: OnsetEnvelopes, tempi: Tensor) -> Tensor:
    """Share of each envelope's variance at the harmonics of tempi [B, K] (bpm): [B, K] in 0..1.

    That is the variance of the envelope averaged over all its beats, relative to its own: a beat
    that drifts or skips loses it though each beat may still follow from the one before.
    """
    time = torch.arange(found.values.shape[-1], dtype=torch.float32) / found.rate
    energy = found.values.square().sum(dim=-1, keepdim=True).clamp(min=1e-12)
    turns = (tempi / 60)[..., None] * time
    share = torch.zeros_like(tempi)
    for harmonic in range(1, HARMONICS + 1):
        wave = torch.polar(torch.ones(()), 2 * math.pi * harmonic * turns)
        line = torch.einsum("be,bke->bk", found.values.to(wave.dtype), wave).abs().square()
        # A sinusoid of E frames and energy S puts E S / 2 into its own line.
        share = share + 2 * line / (len(time) * energy)
    return share.clamp(0, 1)


def _density(found: OnsetEnvelopes) -> Tensor:
    """Onsets a second [B]: local maxima of the envelope that stand out."""
    x = found.values
    inner = x[:, 1:-1]
    peaks = (inner > x[:, :-2]) & (inner >= x[:, 2:])
    peaks &= inner > MARGIN * x.amax(dim=-1, keepdim=True)
    return peaks.sum(dim=-1) * found.rate / x.shape[-1]


NAMES = (
    "periodicity",
    "clarity",
    "log2 tempo",
    "log2 density",
    *(f"at {beats:g} beats" for beats in BEATS),
)
"""What the columns of `features` are."""


def features(found: OnsetEnvelopes) -> Tensor:
    """The rhythm of clips as features [B, F], named by NAMES; float32 and finite.

    The tempo counts by how clear it is: that of a clip without a beat is a guess, and stays near
    the middle (FAVOURITE).
    """
    rhythm = measure(found)
    beats = 60 * found.rate / rhythm.tempo[:, None] * torch.tensor(BEATS)
    columns = [
        rhythm.periodicity,
        rhythm.clarity,
        rhythm.periodicity * torch.log2(rhythm.tempo / FAVOURITE),
        torch.log2(0.5 + rhythm.density),
    ]
    return torch.cat([torch.stack(columns, 1), _near(autocorrelation(found.values), beats)], 1)
