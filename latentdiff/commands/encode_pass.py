"""One process's share of the files, and its way over them: through the codec onto disk.

Shapes: D latent dimensions, K mel bands, N audio samples, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from latentdiff import audio as sound
from latentdiff import streaming
from latentdiff.commands.encode_jobs import Job
from latentdiff.conditions.mel import mel_blocks
from latentdiff.conditions.resample import resample_blocks
from latentdiff.conditions.settings import MelConfig
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, array_writer
from latentdiff.specs import Codec

Row = dict[str, Any]
"""A line of the manifest, with what is needed to continue and to sum up (PRIVATE)."""
PRIVATE = ("identity", "level", "posterior")


def share_out(jobs: list[Job], size: int, together: Callable[[Job], int]) -> list[list[Job]]:
    """The jobs in `size` parts of about equal length, each in their order; the same everywhere.

    What one process would give the codec in one call stays together, since sums in another batch
    are rounded otherwise: of each length, `together(job)` files that follow each other.
    """
    loads, parts = [0.0] * size, [set[Job]() for _ in range(size)]
    for unit in sorted(_units(jobs, together), key=lambda unit: -_seconds(unit)):
        least = loads.index(min(loads))
        loads[least] += _seconds(unit)
        parts[least].update(unit)
    return [[job for job in jobs if job in part] for part in parts]


def _units(jobs: list[Job], together: Callable[[Job], int]) -> Iterator[list[Job]]:
    alike: dict[float, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.seconds, []).append(job)
    for group in alike.values():
        count = together(group[0])
        for start in range(0, len(group), count):
            yield group[start : start + count]


def _seconds(unit: list[Job]) -> float:
    return sum(job.seconds for job in unit)


class FilesPass:
    """Encodes files into a store's folder."""

    def __init__(self, root: Path, codec: Codec, settings: LatentConfig, mel: MelConfig) -> None:
        self._root, self._codec = root, codec
        self._settings, self._mel = settings, mel

    def together(self, job: Job) -> int:
        """How many files as long as this one the codec sees in one call."""
        frames = max(1, math.ceil(job.seconds * self._codec.sample_rate / self._codec.hop))
        seconds, batch = self._settings.chunk_seconds, self._settings.batch
        return streaming.files_together(self._codec, frames, chunk_seconds=seconds, batch=batch)

    def rows(self, todo: list[Job]) -> Generator[tuple[Row | None, float], None, None]:
        """Seconds of audio as they are done; with them the row of a file that became whole."""
        open_files: dict[Job, _Output] = {}
        sources = ((job, job.blocks(self._codec)) for job in todo)
        pieces = streaming.encode_files(
            self._codec,
            sources,  # type: ignore[arg-type]
            chunk_seconds=self._settings.chunk_seconds,
            batch=self._settings.batch,
        )
        with ExitStack() as cleanup:
            for piece in pieces:
                job = piece.key
                assert isinstance(job, Job)
                if job not in open_files:
                    output = _Output(self._root, job, self._settings.keep_std)
                    open_files[job] = cleanup.enter_context(output)
                seconds = piece.size / self._codec.sample_rate
                row = None
                open_files[job].append(*piece.arrays)
                if piece.last:
                    output = open_files.pop(job)
                    row = None if job.failed else self._whole(job, output)
                    output.discard()
                yield row, seconds

    def _whole(self, job: Job, output: _Output) -> Row | None:
        """The row of a file whose latents are complete; its mel is made now."""
        mel = f"mel/{job.stem}.npy"
        try:
            with array_writer(self._root / mel) as writer:
                for features in self._features(job, output.frames):
                    writer.append(features)
        except sound.AudioError as error:
            job.failed = error.why
            return None
        output.finish()
        entry = Entry(
            key=job.key,
            source=str(job.path),
            split=job.split,
            samples=job.samples,
            frames=output.frames,
            mean=output.mean,
            std=output.std,
            mel=mel,
            label=job.label,
            start=job.start,
        )
        level = {"squares": job.level.squares, "count": job.level.count, "peak": job.level.peak}
        spread = output.posterior()
        return {**entry.row(), "identity": job.identity(), "level": level, "posterior": spread}

    def _features(self, job: Job, frames: int) -> Iterator[np.ndarray]:
        """The mel spectrogram at the pace of the latents, in blocks [K, t]."""
        mel = mel_blocks(job.slice(self._mel.sample_rate, 1), self._mel)
        seconds = self._codec.hop / self._codec.sample_rate
        return resample_blocks(mel, frames, seconds * self._mel.sample_rate / self._mel.hop)


class _Output:
    """The arrays of one file on their way to disk; gone unless `finish` was called."""

    def __init__(self, root: Path, job: Job, keep_std: bool) -> None:
        self.mean = f"mean/{job.stem}.npy"
        self.std = f"std/{job.stem}.npy" if keep_std else None
        self._root = root
        self._squares: np.ndarray | float = 0.0

    def __enter__(self) -> _Output:
        self._stack = ExitStack()
        self._means = self._stack.enter_context(array_writer(self._root / self.mean))
        self._stds = self.std and self._stack.enter_context(array_writer(self._root / self.std))
        return self

    @property
    def frames(self) -> int:
        return self._means.frames

    def append(self, mean: np.ndarray, std: np.ndarray) -> None:
        self._means.append(mean)
        if self._stds:
            self._stds.append(std)
        self._squares = self._squares + np.square(std, dtype=np.float64).sum(axis=1)

    def posterior(self) -> list[float]:
        """[D], RMS over the frames of the posterior's standard deviation."""
        return np.sqrt(self._squares / self.frames).tolist()

    def finish(self) -> None:
        self._stack.close()

    def discard(self) -> None:
        """Remove what has not been finished; nothing where all has been."""
        stack = self._stack.pop_all()
        stack.__exit__(_Discarded, _Discarded(), None)

    def __exit__(self, *_: object) -> None:
        self.discard()


class _Discarded(Exception):
    """Tells the writers of a file that is not wanted to remove it."""
