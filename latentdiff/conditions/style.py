"""What a piece is like as a whole: mean and deviation of its final latents, channel by channel.

Constant along a sample, it keeps the sample within one piece however long it is. In training it is
taken over random stretches of the piece and with noise: one vector a file would be the file's name,
from which a network learns the file by heart and nothing about styles in between.

Shapes: B windows, C latent channels, F frames of all files together, K = 2 C features, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentdiff.conditions.kind import LatentKind, Target
from latentdiff.conditions.settings import ConditionConfig, StyleConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.errors import UserError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from latentdiff.specs import Allocate

    Floats = NDArray[np.float32]

STEP = 16
"""Frames that are summed up beforehand; stretches begin and end on whole steps."""


@dataclass(frozen=True)
class Style(LatentKind):
    """The style of `condition.style`."""

    name = "style"
    least_std = 0.05
    """Of latents of unit variance: pieces whose means differ less sound alike."""
    config: StyleConfig

    @classmethod
    def of(cls, condition: ConditionConfig) -> Style:
        return cls(condition.style)

    def size(self, channels: int) -> int:
        return 2 * channels

    def describe(self, latents: Floats, frame_rate: float) -> Floats:
        sums = StepSums.of([latents], [latents.shape[1]])
        described: Floats = sums.style(*self._whole(sums, frame_rate))[0]
        return described

    def fit(self, files: Iterable[Floats], frame_rate: float) -> tuple[Standardiser, Floats]:
        """Standardised over stretches of about the length that training takes, edge to edge."""
        stretches, whole = [], []
        width = self._steps(frame_rate)[1]
        for latents in files:
            sums = StepSums.of([latents], [latents.shape[1]])
            (steps,) = sums.steps
            number = np.arange(max(1, steps // width))
            length = np.full_like(number, min(width, steps))
            stretches.append(sums.style(np.zeros_like(number), number * width, length).T)
            whole.append(sums.style(*self._whole(sums, frame_rate)))
        standardiser = Standardiser.fit([np.concatenate(stretches, axis=1)], self.least_std)
        return standardiser, np.concatenate(whole)

    def windows(
        self,
        rows: Tensor,
        lengths: Tensor,
        frame_rate: float,
        standardiser: Standardiser,
        allocate: Allocate,
    ) -> StyleWindows:
        ends = np.cumsum(lengths.numpy())
        # Read file by file: the rows of a large corpus are mapped from a disk.
        files = (rows[end - size : end].numpy().T for end, size in zip(ends, lengths, strict=True))
        sums = StepSums.of(files, lengths.tolist(), allocate)
        return StyleWindows(self, sums, frame_rate, standardiser)

    def names_file(
        self, options: Mapping[str, Sequence[str]], is_key: Callable[[str], bool]
    ) -> str | None:
        words = options.get("style", ())
        if len(words) == 1 and (ends := _moving(words[0], is_key)):
            return ends[0]
        weighted = [_weight(word, is_key) for word in words]
        return max(weighted, key=lambda pair: pair[1])[0] if weighted else None

    def make(self, target: Target) -> Floats | None:
        words = target.options.get("style", ())
        if not words:
            reference = target.reference.get(self.name)
            return None if reference is None else _constant(reference, target.frames)

        def is_key(word: str) -> bool:
            try:
                target.of_file(self.name, word)
            except KeyError:
                return False
            return True

        if len(words) == 1 and (ends := _moving(words[0], is_key)):
            first, last = (self._named(word, target) for word in ends)
            share = (np.arange(target.frames) + 0.5) / target.frames
            moving = np.outer(first, 1 - share) + np.outer(last, share)
            return moving.astype(np.float32)
        weighted = [_weight(word, is_key) for word in words]
        total = sum(weight for _, weight in weighted)
        mixed = sum(self._named(name, target) * (weight / total) for name, weight in weighted)
        return _constant(np.asarray(mixed, np.float32), target.frames)

    def _named(self, word: str, target: Target) -> Floats:
        """The style [K] of a recording or, by its key, of a training file."""
        try:
            known = target.of_file(self.name, word)
        except KeyError:
            known = None
        if known is not None and not Path(word).is_file():
            return known
        return self.describe(target.latents(Path(word)), target.frame_rate)

    def _whole(
        self, sums: StepSums, frame_rate: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Each file, or its end where it is longer than the longest stretch."""
        length = np.minimum(sums.steps, self._steps(frame_rate)[1])
        return np.arange(len(length)), sums.steps - length, length

    def _steps(self, frame_rate: float) -> tuple[int, int]:
        """Steps of the shortest and of the longest stretch."""
        low, high = (max(1, round(s * frame_rate / STEP)) for s in self.config.seconds)
        return low, high


def in_memory(rows: int, width: int) -> NDArray[np.float64]:
    """An `Allocate` for few rows."""
    return np.empty((rows, width))


@dataclass(frozen=True)
class StepSums:
    """Sums over whole steps, so that the style of any stretch is a difference of two of them."""

    sums: NDArray[np.float64]
    """[S, 2 C + 1]: of latents, of their squares, and of ones, from the beginning of a file up to
    each step; a file of n steps has n + 1 rows, the first of them zero."""
    first: NDArray[np.int64]
    """[files] the first row of each file."""
    steps: NDArray[np.int64]
    """[files] steps of each file; the last one may be short."""

    @classmethod
    def of(
        cls, files: Iterable[Floats], lengths: Sequence[int], allocate: Allocate = in_memory
    ) -> StepSums:
        """Of the final latents [C, T] of each file; `lengths`: T of each."""
        steps = -(-np.asarray(lengths) // STEP)
        last = np.cumsum(steps + 1)
        first = last - (steps + 1)
        sums: NDArray[np.float64] | None = None
        for latents, start, end in zip(files, first, last, strict=True):
            part = _sums(latents)
            if sums is None:
                sums = allocate(int(last[-1]), part.shape[1])
            sums[start:end] = part
        assert sums is not None, "there are no files"
        return cls(sums, first, steps)

    def style(
        self, files: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64]
    ) -> Floats:
        """[n, K] of stretches of `length` [n] steps from step `start` [n] of `files` [n]."""
        begin = self.first[files] + start
        total = self.sums[begin + length] - self.sums[begin]
        mean, square = np.split(total[:, :-1] / total[:, -1:], 2, axis=1)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        both: Floats = np.concatenate([mean, deviation], axis=1).astype(np.float32)
        return both


@dataclass(frozen=True)
class StyleWindows:
    """The styles of training windows; see `specs.DerivedFeatures`."""

    kind: Style
    sums: StepSums
    frame_rate: float
    standardiser: Standardiser

    def random(self, batch: int, generator: torch.Generator) -> Tensor:
        """[B, 2 + K]: length and place of the stretch in 0..1, and noise."""
        import torch

        place = torch.rand(batch, 2, generator=generator)
        noise = torch.randn(batch, self.sums.sums.shape[1] - 1, generator=generator)
        return torch.cat([place, noise], dim=1)

    def cut(self, files: Tensor, start: Tensor, frames: int, random: Tensor | None) -> Tensor:
        """[B, K, `frames`]; without `random`, of the whole file or its end, without noise."""
        import torch

        of = files.numpy()
        if random is None:
            every = self.kind._whole(self.sums, self.frame_rate)
            style = self.sums.style(*(x[of] for x in every))
            noise = np.zeros_like(style)
        else:
            style = self.sums.style(of, *self._stretch(of, random[:, :2].numpy()))
            noise = self.kind.config.noise * random[:, 2:].numpy()
        scaled = self.standardiser(style[:, :, None]) + noise[:, :, None]
        return torch.from_numpy(scaled.astype(np.float32)).expand(-1, -1, frames).contiguous()

    def _stretch(
        self, files: NDArray[np.int64], random: Floats
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and length in steps of a stretch that lies anywhere in its file."""
        low, high = self.kind._steps(self.frame_rate)
        steps = self.sums.steps[files]
        length = np.minimum(low + (random[:, 0] * (high - low + 1)).astype(np.int64), steps)
        return (random[:, 1] * (steps - length + 1)).astype(np.int64), length


def _sums(latents: Floats) -> NDArray[np.float64]:
    """Final latents [C, T] => rows of `StepSums.sums`, from zero on."""
    # The difference of two large sums needs the digits.
    x = latents.astype(np.float64)
    values = np.concatenate([x, np.square(x), np.ones_like(x[:1])])
    parts = np.add.reduceat(values, np.arange(0, values.shape[1], STEP), axis=1)
    return np.concatenate([np.zeros((1, len(values))), np.cumsum(parts, axis=1).T])


def _constant(vector: Floats, frames: int) -> Floats:
    """[K] => [K, T]."""
    return np.repeat(vector[:, None], frames, axis=1)


def _moving(word: str, is_key: Callable[[str], bool]) -> tuple[str, str] | None:
    """The two ends of `a.wav:b.wav`, each of which may hold colons itself; None for one name."""
    names = word.split(":")
    pairs = [(":".join(names[:cut]), ":".join(names[cut:])) for cut in range(1, len(names))]
    pairs = [(first, last) for first, last in pairs if first and last]
    if not pairs or _is_name(word, is_key):
        return None
    known = [pair for pair in pairs if all(_is_name(end, is_key) for end in pair)]
    return (known or pairs)[0]


def _weight(word: str, is_key: Callable[[str], bool]) -> tuple[str, float]:
    """Name and weight of `a.wav=0.7`; without a weight, 1."""
    name, equals, number = word.rpartition("=")
    if not equals or _is_name(word, is_key):
        return word, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise UserError(
            f"cannot understand the weight in --style {word}",
            why=f"'{number}' is not a number above 0",
            do_this="write for example --style a.wav=0.7 --style b.wav=0.3.",
        )
    return name, weight


def _is_name(word: str, is_key: Callable[[str], bool]) -> bool:
    """Whether a whole word names a recording or a training file, whatever characters it has."""
    return Path(word).is_file() or is_key(word)
