"""Finds the beats and bars of a recording, or that it has none.

Shapes: B frequency bands, M onset frames, N audio samples, P tempi, W windows of the recording.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.beats import BEATS_PER_BAR, BeatGrid
from latentdiff.conditions.chroma import ChromaConfig, chroma_blocks
from latentdiff.conditions.mel import mel_blocks
from latentdiff.conditions.settings import MelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Numbers = NDArray[np.float64]

SAMPLE_RATE = 22050
"""Hz, of the audio that beats are found in."""

_MEL = MelConfig(sample_rate=SAMPLE_RATE, n_fft=1024, hop=256, bands=40, f_min=30, f_max=8000)
_CHROMA = ChromaConfig(sample_rate=SAMPLE_RATE, hop=2048)
_RATE = SAMPLE_RATE / _MEL.hop
"""Onset frames per second."""
_MEL_FLOOR = 0.2
"""Mel features below are silence: 80 dB under a full-scale sine."""
_BANDS = (0, 1, 3, 6, 10, 15, 21, 28)
"""First mel band of each onset band. The lowest ends at 170 Hz: kick and bass."""
_LATENCY = 0.008
"""Seconds by which an onset shows before it sounds: 12 ms for a click, 4 ms for a kick."""

_TEMPI = np.exp(np.linspace(np.log(40), np.log(240), 300))
"""bpm, about 0.6 % apart."""
_WINDOW, _STEP = 8.0, 2.0
"""Seconds of a window that has one tempo, and from one to the next."""
_MULTIPLES = ((0.5, 0.28), (1, 0.36), (2, 0.18), (4, 0.18))
"""Beats apart at which a beat makes onsets alike, and their weight: the eighth note, beat, half bar
and bar."""
_USUAL_TEMPO, _OCTAVES = 130.0, 0.9
"""Centre in bpm and deviation in octaves of the prior."""
_TEMPO_JUMP = 4.0
"""Cost of a change of tempo by an octave from one window to the next, in scores of a window."""
_LEAST_RISE = 0.02
"""In mel units (2 dB): a smaller rise is no onset, but the wobble of a held tone."""

_SURROGATES = 50
_STRETCH = (0.5, 1.5)
"""Seconds, shortest and longest stretch of a recording that a surrogate leaves whole."""
_MOST_WINDOWS = 150
"""Windows by which a recording and its surrogates are compared, spread over all of it."""
_LEAST_SCORE = 4.0
"""Deviations above the surrogates' mean at which a recording has a beat."""

_TIGHTNESS = 100.0
"""Cost of a beat that is a factor of e early or late, in onsets (Ellis 2007, equation 4)."""
_SMOOTH_BEATS = 4.0
"""Deviation in beats of the window in which beats are taken to be evenly spaced."""


@dataclass(frozen=True)
class _Onsets:
    """What is kept of a recording: about 3 KiB a second."""

    bands: Floats
    """[B, M], the rise of the level in each band since the frame before."""
    chroma: Floats
    """[12, K], one for every _CHROMA.hop samples."""


def find_beats(blocks: Iterable[Floats]) -> BeatGrid | None:
    """The beats of audio at SAMPLE_RATE that arrives in blocks [channels, N]; None without a beat.

    The result does not depend on how the audio is cut into blocks. A recording has a beat if its
    onsets repeat more regularly than those of surrogates of itself, see `_confidence`; it then also
    has a grid where the beat pauses. Bars begin on the beat out of four where most changes.
    """
    onsets = _onsets(blocks)
    if onsets.bands.shape[1] < _SHORTEST * _RATE:
        return None
    confidence = _confidence(onsets.bands)
    if confidence is None:
        return None
    strength = _strength(onsets.bands)
    frames = _track(strength, _periods(onsets.bands))
    if len(frames) < 2 * BEATS_PER_BAR:
        return None
    times = _smoothed(_refined(strength, frames)) / _RATE + _LATENCY
    return _in_bars(onsets, times, confidence)


_SHORTEST = 3.0
"""Seconds; shorter recordings have no beat."""


def _onsets(blocks: Iterable[Floats]) -> _Onsets:
    """Onsets by spectral flux: the rise of the level in dB, averaged over each band."""
    waiting: deque[Floats] = deque()
    chroma_of = chroma_blocks(_taken_from(waiting), _CHROMA)
    last = np.full((_MEL.bands, 1), _MEL_FLOOR, np.float32)
    widths = np.diff([*_BANDS, _MEL.bands]).astype(np.float32)
    bands, chroma = [], []
    behind = 0  # samples by which the chroma is behind the mel
    for mel in mel_blocks(_copied_to(waiting, blocks), _MEL):
        level = np.concatenate([last, np.maximum(mel, _MEL_FLOOR)], axis=1)
        last = level[:, -1:]
        rise = np.maximum(np.diff(level, axis=1) - _LEAST_RISE, 0)
        bands.append(np.add.reduceat(rise, _BANDS, axis=0) / widths[:, None])
        behind += mel.shape[1] * _MEL.hop
        # A frame of chroma must not reach past the audio that has arrived: it would be the last.
        while behind > _CHROMA.n_fft + _CHROMA.hop:
            chroma.append(next(chroma_of))
            behind -= chroma[-1].shape[1] * _CHROMA.hop
    chroma += chroma_of
    return _Onsets(np.concatenate(bands, axis=1), np.concatenate(chroma, axis=1))


def _copied_to(waiting: deque[Floats], blocks: Iterable[Floats]) -> Iterator[Floats]:
    for block in blocks:
        waiting.append(block)
        yield block


def _taken_from(waiting: deque[Floats]) -> Iterator[Floats]:
    """For a second reader in step with the first: `itertools.tee` holds blocks by the 57."""
    while waiting:
        yield waiting.popleft()


def _confidence(bands: Floats) -> float | None:
    """The share of the regularity of onsets [B, M] that chance does not explain; None: no beat.

    Surrogates are the recording's stretches of random lengths in random order: they keep its onsets
    and its rhythm of syllables, and lose a beat, which is a rhythm that stays in step for bars.
    (Phase-randomised surrogates would keep it: they have the same autocorrelation.)
    """
    regularity = _regularity(bands)
    rng = np.random.default_rng(0)
    by_chance = [_regularity(_surrogate(bands, rng)) for _ in range(_SURROGATES)]
    mean, deviation = float(np.mean(by_chance)), float(np.std(by_chance))
    if regularity <= mean + _LEAST_SCORE * deviation:
        return None
    return 1 - mean / regularity


def _surrogate(bands: Floats, rng: np.random.Generator) -> Floats:
    count = bands.shape[1]
    lengths = rng.uniform(*_STRETCH, size=int(count / _RATE / _STRETCH[0]) + 1) * _RATE
    edges = np.cumsum(lengths).astype(int)
    stretches = np.split(np.arange(count), edges[edges < count])
    order = [stretches[index] for index in rng.permutation(len(stretches))]
    return bands[:, np.concatenate(order)]


def _regularity(bands: Floats) -> float:
    """0..1: the score of each window's best tempo, averaged over the windows."""
    step = max(_STEP, bands.shape[1] / _RATE / _MOST_WINDOWS)
    return float(_tempo_scores(bands, step).max(axis=1).mean())


def _tempo_scores(bands: Floats, step: float) -> Numbers:
    """[W, P]: how regular the onsets [B, M] of each window are at each tempo, times its prior.

    Windows begin `step` seconds apart. The score before the prior is the weighted mean of
    the autocorrelation at _MULTIPLES of the beat; negative ones count as 0.
    """
    correlation = np.concatenate(list(_autocorrelations(bands, step)))
    last = correlation.shape[1] - 1
    total = np.zeros((len(correlation), len(_TEMPI)))
    for multiple, weight in _MULTIPLES:
        lags = 60 * _RATE / _TEMPI * multiple
        below = np.minimum(lags.astype(int), last - 1)
        share = lags - below
        values = (1 - share) * correlation[:, below] + share * correlation[:, below + 1]
        total += weight * np.where(lags <= last, values, 0)
    prior = np.exp(-0.5 * (np.log2(_TEMPI / _USUAL_TEMPO) / _OCTAVES) ** 2)
    scores: Numbers = np.maximum(total, 0) * prior
    return scores


def _autocorrelations(bands: Floats, step: float) -> Iterator[Numbers]:
    """[w, L] of the windows, all bands together: unbiased, 1 at lag 0, up to 3/4 of the window."""
    size = min(bands.shape[1], int(_WINDOW * _RATE))
    padded = 1 << (2 * size - 1).bit_length()
    lags = np.arange(size * 3 // 4)
    starts = range(0, bands.shape[1] - size + 1, int(step * _RATE))
    for some in np.array_split(np.array(starts), len(starts) // 64 + 1):
        windows = np.stack([bands[:, start : start + size] for start in some]).astype(np.float64)
        windows -= windows.mean(axis=2, keepdims=True)
        power = np.square(np.abs(np.fft.rfft(windows, padded))).sum(axis=1)
        products = np.fft.irfft(power, padded)[:, lags]
        energy = np.maximum(products[:, :1], 1e-9)  # silence
        yield products / energy * size / (size - lags)


def _periods(bands: Floats) -> Numbers:
    """[M] frames per beat around each frame, by the best path through the windows' tempi."""
    scores = _tempo_scores(bands, _STEP)
    octaves = np.log2(_TEMPI)
    cost = _TEMPO_JUMP * np.abs(octaves[:, None] - octaves)
    total = scores[0]
    origins = []
    for score in scores[1:]:
        paths = total[:, None] - cost
        origins.append(paths.argmax(axis=0))
        total = paths.max(axis=0) + score
    path = [int(total.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    size = min(bands.shape[1], int(_WINDOW * _RATE))
    centres = np.arange(len(path)) * int(_STEP * _RATE) + size / 2
    tempi = np.exp(np.interp(np.arange(bands.shape[1]), centres, np.log(_TEMPI[path[::-1]])))
    return 60 * _RATE / tempi


def _strength(bands: Floats) -> Numbers:
    """Onset strength [M]: the bands' sum, smoothed over 15 ms, at a level that is 1 everywhere."""
    from scipy.ndimage import gaussian_filter1d

    flux = gaussian_filter1d(bands.sum(axis=0, dtype=np.float64), 1.3)
    power = gaussian_filter1d(np.square(flux), 4 * _RATE)
    level: Numbers = flux / np.sqrt(power + 1e-6)
    return level


def _track(strength: Numbers, periods: Numbers) -> NDArray[np.int64]:
    """Frames of the beats: the sequence with the most strength that keeps to `periods`.

    Dynamic programming over all frames; Ellis, Beat Tracking by Dynamic Programming, 2007.
    """
    total = strength.copy()
    origin = np.full(len(strength), -1)
    rounded = np.round(periods).astype(int)
    costs = {int(period): _interval_costs(int(period)) for period in np.unique(rounded)}
    for frame in range(len(strength)):
        period = int(rounded[frame])
        # Intervals from half to twice the period, longest first.
        low, high = frame - 2 * period, frame - period // 2
        cost = costs[period]
        if high <= 0:
            continue
        first = max(low, 0)
        paths = total[first:high] - cost[first - low :]
        best = int(paths.argmax())
        total[frame] += paths[best]
        origin[frame] = first + best
    frame = len(total) - 1 - int(total[: -int(rounded[-1]) - 1 : -1].argmax())
    beats = []
    while frame >= 0:
        beats.append(frame)
        frame = int(origin[frame])
    return np.array(beats[::-1])


def _interval_costs(period: int) -> Numbers:
    """Costs of intervals of 2 * period down to period // 2 + 1 frames."""
    intervals = np.arange(2 * period, period // 2, -1)
    costs: Numbers = _TIGHTNESS * np.square(np.log(intervals / period))
    return costs


def _refined(strength: Numbers, frames: NDArray[np.int64]) -> Numbers:
    """Beats between frames: the summit of the parabola through each peak's three frames."""
    inner = np.clip(frames, 1, len(strength) - 2)
    before, here, after = strength[inner - 1], strength[inner], strength[inner + 1]
    curvature = before - 2 * here + after
    peak = (here >= before) & (here >= after) & (curvature < 0)
    offset = np.divide(0.5 * (before - after), curvature, where=peak, out=np.zeros(len(inner)))
    return np.where(peak, inner + offset, frames)


def _smoothed(beats: Numbers) -> Numbers:
    """Each beat moved onto a line fitted to its neighbours, those out of line counting less.

    Players and onsets scatter; a phase that does too would be noise to a model.
    """
    reach = int(3 * _SMOOTH_BEATS)
    offsets = np.arange(-reach, reach + 1)
    smooth = np.empty(len(beats))
    for index in range(len(beats)):
        near = offsets[(index + offsets >= 0) & (index + offsets < len(beats))]
        window = np.exp(-0.5 * np.square(near / _SMOOTH_BEATS))
        targets, weights = beats[index + near], window
        for _ in range(3):
            slope, value = np.polyfit(near, targets, 1, w=np.sqrt(weights))
            away = np.abs(targets - slope * near - value)
            weights = window / np.maximum(away / (np.median(away) + 1e-3), 1)
        smooth[index] = value
    return smooth


def _in_bars(onsets: _Onsets, beats: Numbers, confidence: float) -> BeatGrid:
    """The grid whose bars begin on that of eight half beats where most changes.

    Half beats, because strong off-beats (the hats of house music) can be taken for the beats. What
    changes is the low end (kick and bass come in) and the chroma (the chord); the beats of a bar
    are those of two sets of half beats with the stronger low end.
    """
    halves = np.sort(np.concatenate([beats, (beats[1:] + beats[:-1]) / 2]))
    near = np.round(halves * _RATE).astype(int)[:, None] + np.arange(-3, 4)
    lowest = onsets.bands[0, np.clip(near, 0, onsets.bands.shape[1] - 1)].max(axis=1)
    low, chord = _standardised(lowest), _standardised(_chroma_changes(onsets.chroma, halves))
    bar = 2 * BEATS_PER_BAR
    scores = [(low + chord)[half::bar].mean() + low[half % 2 :: 2].mean() for half in range(bar)]
    downbeat = int(np.argmax(scores))
    return BeatGrid.in_fours(halves[downbeat % 2 :: 2], downbeat // 2, confidence)


def _standardised(values: Numbers) -> Numbers:
    scaled: Numbers = (values - values.mean()) / (values.std() + 1e-9)
    return scaled


def _chroma_changes(chroma: Floats, halves: Numbers) -> Numbers:
    """How unlike the chroma of the beats before and after each half beat are: 1 - cosine."""
    frames = np.round(halves * SAMPLE_RATE / _CHROMA.hop).astype(int)
    edges = np.clip(frames, 0, chroma.shape[1])
    total = np.concatenate([np.zeros((12, 1)), np.cumsum(chroma, axis=1, dtype=np.float64)], axis=1)
    beats = total[:, edges[2:]] - total[:, edges[:-2]]
    beats /= np.linalg.norm(beats, axis=0) + 1e-9
    return np.pad(1 - np.sum(beats[:, :-2] * beats[:, 2:], axis=0), 2)
