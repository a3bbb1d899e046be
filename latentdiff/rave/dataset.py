"""Training crops and validation crops of a RAVE database.

Every training crop has a number; its position, phase rotation and gain are drawn from (seed,
number). So a continued run sees what an uninterrupted one would have seen, with any number of
workers.

Shapes: B batch, N samples (n_signal).
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from latentdiff.rave.database import FULL_SCALE, RaveDatabase

# RAVE's own augmentation, with its own constants.
PHASE_ROTATION_SHARE = 0.8
"""Probability that a crop's phase is rotated."""
PHASE_ROTATION_HZ = (20.0, 2000.0)
"""Range of the all-pass frequency, drawn log-uniformly."""
PHASE_ROTATION_RADIUS = 0.99
"""Radius of its poles."""
# The optional ones.
GAIN_SHARE = 0.5
"""Share of the crops that get a gain."""
GAIN_DB = (-6.0, 3.0)
"""Range of the random gain."""
MUTE_SHARE = 0.1
"""Share of the crops that are muted."""


class TrainingCrops(Dataset[Tensor]):
    """Item (record, number) -> float32 [channels, N], a random crop as RAVE trains on it."""

    def __init__(
        self,
        path: Path,
        n_signal: int,
        *,
        seed: int,
        augmentations: Sequence[str] = (),
    ) -> None:
        self._database = RaveDatabase(path)
        self._n_signal = n_signal
        self._seed = seed
        self._augmentations = tuple(augmentations)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        record, number = item
        rng = np.random.default_rng([self._seed, number])
        audio = self._database.read(record)
        start = rng.integers(0, audio.shape[1] - self._n_signal + 1)
        crop = audio[:, start : start + self._n_signal].astype(np.float32) / FULL_SCALE
        if rng.random() < PHASE_ROTATION_SHARE:
            crop = rotate_phase(crop, self._database.sample_rate, rng)
        if "gain" in self._augmentations and rng.random() < GAIN_SHARE:
            crop = _within_full_scale(crop * 10 ** (rng.uniform(*GAIN_DB) / 20))
        if "mute" in self._augmentations and rng.random() < MUTE_SHARE:
            crop = np.zeros_like(crop)
        # Dither of half a quantisation step, also after muting: RAVE's loss divides by the energy
        # of the crop, which must not be zero.
        crop = crop + rng.uniform(-0.5, 0.5, crop.shape) / FULL_SCALE
        return torch.from_numpy(crop.astype(np.float32))


class FixedCrops(Dataset[Tensor]):
    """Item -> float32 [channels, N]: the middle of a record, unaugmented, always the same.

    At most `limit` records, evenly spread over `records`.
    """

    def __init__(self, path: Path, records: Sequence[int], n_signal: int, limit: int) -> None:
        self._database = RaveDatabase(path)
        self._n_signal = n_signal
        count = min(limit, len(records))
        self._records = [records[i * len(records) // count] for i in range(count)]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Tensor:
        audio = self._database.read(self._records[index])
        start = (audio.shape[1] - self._n_signal) // 2
        crop = audio[:, start : start + self._n_signal].astype(np.float32) / FULL_SCALE
        return torch.from_numpy(crop)


class EndlessBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (record, number): one seeded shuffle of the records after another.

    Begins at batch `start`; of `world` processes, process `rank` gets its own share.
    """

    def __init__(
        self,
        records: Sequence[int],
        batch: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._records = np.asarray(records)
        self._batch = batch
        self._seed = seed
        self._start = start
        self._rank = rank
        self._world = world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self._start * self._world * self._batch
        shuffle_of, order = -1, self._records
        while True:
            # Every process draws the step's crops of all processes and takes each world-th, so
            # that together they see every record once per epoch.
            everyone = []
            for _ in range(self._world * self._batch):
                epoch, place = divmod(number, len(self._records))
                if epoch != shuffle_of:
                    # By (seed, epoch) alone: a resumed run can start in any epoch.
                    order = np.random.default_rng([self._seed, epoch]).permutation(self._records)
                    shuffle_of = epoch
                everyone.append((int(order[place]), number))
                number += 1
            yield everyone[self._rank :: self._world]


def training_loader(
    crops: TrainingCrops, batches: EndlessBatches, *, workers: int, pin: bool
) -> DataLoader[Tensor]:
    """Endless loader of [B, channels, N]. It leaves torch's global generator alone."""
    return DataLoader(
        crops,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        generator=torch.Generator(),
    )


def _start_worker(_: int) -> None:
    """Ignore Ctrl-C, which reaches every process of the terminal; only the trainer acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def rotate_phase(
    audio: NDArray[np.floating], sample_rate: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """[channels, N] through a second-order all-pass filter at a random frequency.

    Poles at r exp(+-i w), zeros at 1 / r exp(+-i w): magnitudes stay, phases rotate around w. It
    teaches the codec to ignore phase (Caillon and Esling, RAVE, 2021).
    """
    from scipy.signal import lfilter

    # Well below Nyquist also at low sample rates; log-uniform, as pitch is heard.
    low, high = (math.log(min(hz, sample_rate / 4)) for hz in PHASE_ROTATION_HZ)
    angle = 2 * math.pi * math.exp(rng.uniform(low, high)) / sample_rate
    radius = PHASE_ROTATION_RADIUS
    poles = [1.0, -2 * radius * math.cos(angle), radius**2]
    # A denominator read backwards is the numerator of an all-pass.
    return np.asarray(lfilter(poles[::-1], poles, audio))


def _within_full_scale(audio: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turned down where it exceeds -1..1."""
    peak = np.abs(audio).max()
    return audio / peak if peak > 1 else audio
