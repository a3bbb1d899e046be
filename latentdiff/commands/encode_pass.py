"""One process's share of the files, and their way through the codec to disk.

Shapes: D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff import streaming
from latentdiff.audio import AudioError
from latentdiff.commands.encode_features import FeatureWriter
from latentdiff.commands.encode_jobs import EncodeJob
from latentdiff.commands.encode_progress import EncodedFile
from latentdiff.latents.arrays import ArrayWriter, array_writer
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry
from latentdiff.specs import Codec, frame_rate


def share_out(
    jobs: Sequence[EncodeJob], size: int, together: Callable[[EncodeJob], int]
) -> list[list[EncodeJob]]:
    """Divide the jobs into `size` parts of about equal length, each in their order.

    The result is the same in every process. Jobs that one process would batch into one codec call
    stay together, because sums in another batch round differently and the store must not depend on
    the number of processes: of each length, `together(job)` consecutive ones.
    """
    loads, parts = [0.0] * size, [set[EncodeJob]() for _ in range(size)]
    # Longest first, each to the part with the least so far.
    for unit in sorted(_units(jobs, together), key=lambda unit: -_seconds(unit)):
        least = loads.index(min(loads))
        loads[least] += _seconds(unit)
        parts[least].update(unit)
    return [[job for job in jobs if job in part] for part in parts]


def _units(
    jobs: Sequence[EncodeJob], together: Callable[[EncodeJob], int]
) -> Iterator[list[EncodeJob]]:
    """The jobs in groups that share a codec call."""
    by_length: dict[float, list[EncodeJob]] = {}
    for job in jobs:
        by_length.setdefault(job.seconds, []).append(job)
    for group in by_length.values():
        count = together(group[0])
        for start in range(0, len(group), count):
            yield group[start : start + count]


def _seconds(unit: list[EncodeJob]) -> float:
    return sum(job.seconds for job in unit)


class FilesPass:
    """Encodes files into a store's folder."""

    def __init__(
        self,
        root: Path,
        codec: Codec,
        settings: LatentConfig,
        features: FeatureWriter,
        stems: Mapping[str, str],
    ) -> None:
        """`stems`: key -> stem of its files, for all jobs of the store (see `audio.file_stems`)."""
        self._root, self._codec, self._settings = root, codec, settings
        self._features, self._stems = features, stems

    def together(self, job: EncodeJob) -> int:
        """How many files as long as this one are batched into one codec call."""
        frames = max(1, math.ceil(job.seconds * frame_rate(self._codec)))
        seconds, batch = self._settings.chunk_seconds, self._settings.batch
        return streaming.files_together(self._codec, frames, chunk_seconds=seconds, batch=batch)

    def files(
        self, todo: Sequence[EncodeJob]
    ) -> Generator[tuple[EncodedFile | None, float], None, None]:
        """Encode; yields seconds of audio as they are done, with each file that they complete.

        Files that cannot be used are not yielded; the reason is in their jobs (`failed`).
        """
        open_files: dict[EncodeJob, _Output] = {}
        pieces = streaming.encode_files(
            self._codec,
            ((job, job.blocks(self._codec)) for job in todo),
            chunk_seconds=self._settings.chunk_seconds,
            batch=self._settings.batch,
        )
        with ExitStack() as cleanup:
            for piece in pieces:
                job = piece.key
                if job not in open_files:
                    output = _Output(self._root, self._stems[job.key], self._settings.keep_std)
                    open_files[job] = cleanup.enter_context(output)
                open_files[job].append(*piece.arrays)
                encoded = None
                if piece.last:
                    output = open_files.pop(job)
                    # A file that broke off ends like one that is complete: only the job knows.
                    encoded = None if job.failed else self._complete(job, output)
                    output.discard()
                yield encoded, piece.size / self._codec.sample_rate

    def _complete(self, job: EncodeJob, output: _Output) -> EncodedFile | None:
        """The features of a job, then its latents' final names.

        In this order because features take another pass over the recording, which can fail: then
        all its arrays are discarded.
        """
        seconds = job.samples / self._codec.sample_rate
        try:
            files = self._features.write(job, self._stems[job.key], output.frames, seconds)
        except AudioError as error:
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
            mel=files.pop("mel", None),
            label=job.label,
            start=job.start,
            features=files,
        )
        health = job.meter.finish()
        return EncodedFile(entry, job.identity(), job.level, output.posterior(), health)


class _Output:
    """The latents of one file on their way to disk; removed unless `finish` is called."""

    def __init__(self, root: Path, stem: str, keep_std: bool) -> None:
        self.mean = f"mean/{stem}.npy"
        self.std = f"std/{stem}.npy" if keep_std else None
        self._root = root
        self._squares: NDArray[np.float64] | float = 0.0

    def __enter__(self) -> _Output:
        self._stack = ExitStack()
        self._means = self._open(self.mean)
        self._stds = self._open(self.std) if self.std else None
        return self

    def _open(self, name: str) -> ArrayWriter:
        return self._stack.enter_context(array_writer(self._root / name))

    @property
    def frames(self) -> int:
        return self._means.frames

    def append(self, mean: NDArray[np.float32], std: NDArray[np.float32]) -> None:
        self._means.append(mean)
        if self._stds:
            self._stds.append(std)
        self._squares = self._squares + np.square(std, dtype=np.float64).sum(axis=1)

    def posterior(self) -> list[float]:
        """[D], RMS over the frames of the posterior's standard deviation."""
        return [float(value) for value in np.sqrt(self._squares / self.frames)]

    def finish(self) -> None:
        """Give the files their names."""
        self._stack.close()

    def discard(self) -> None:
        """Remove what has not been finished; after `finish` there is nothing left to remove."""
        stack = self._stack.pop_all()
        # The writers remove their files if the context ends with an exception.
        stack.__exit__(_Discarded, _Discarded(), None)

    def __exit__(self, *_: object) -> None:
        self.discard()


class _Discarded(Exception):
    """Makes the writers of an unwanted file remove it."""
