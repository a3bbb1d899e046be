"""What `encode` is to encode: the dataset's files, or those in some folders.

Shapes: N audio samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import LevelMeter
from latentdiff.latents.store import MANIFEST
from latentdiff.model.project import Project
from latentdiff.runs import Input, Run
from latentdiff.specs import Codec
from latentdiff.split import held_out

LEAST_END = 0.5
"""Seconds; the end of a file that would be shorter is not held out."""


@dataclass(eq=False)
class Job:
    """One file, or a part of one, on its way through the codec."""

    key: str
    path: Path
    seconds: float
    """As far as is known beforehand."""
    split: str = "train"
    start: float = 0.0
    """Seconds into the file at which it begins."""
    stop: float | None = None
    """Seconds into the file at which it ends; None: at the file's end."""
    sha256: str | None = None
    """Of the file when the dataset was made; None: not checked."""
    failed: str = ""
    """Why it could not be encoded to its end."""
    samples: int = 0
    """N at the codec's rate, so far as it has been read."""
    level: LevelMeter = field(default_factory=LevelMeter)
    """Of what has been read."""
    _running: list[Generator[np.ndarray, None, None]] = field(default_factory=list)

    @property
    def stem(self) -> str:
        return sound.file_stem(self.key)

    @property
    def label(self) -> str | None:
        return PurePosixPath(self.key).parent.name or None

    def identity(self) -> list[Any]:
        """What tells whether the file is still the one that was encoded."""
        try:
            info = self.path.stat()
        except OSError:
            return []
        return [str(self.path), info.st_size, info.st_mtime_ns, self.start, self.stop, self.split]

    def blocks(self, codec: Codec) -> Iterator[np.ndarray]:
        """Blocks [channels, N] for the codec. What goes wrong is noted in `failed`."""
        self.samples = 0
        try:
            self._check_unchanged()
            for block in self.slice(codec.sample_rate, codec.channels):
                self.samples += block.shape[1]
                self.level.add(block)
                yield block
            if self.samples == 0:
                self.failed = "there is nothing in it"
        except sound.AudioError as error:
            self.failed = error.why
        except OSError as error:
            self.failed = str(error.strerror)

    def slice(self, sample_rate: int, channels: int) -> Iterator[np.ndarray]:
        """Blocks [channels, N] of the part that is wanted, at a rate in Hz."""
        first = round(self.start * sample_rate)
        last = None if self.stop is None else round(self.stop * sample_rate)
        blocks = sound.blocks(self.path, sample_rate, channels)
        self._running.append(blocks)  # type: ignore[arg-type]
        position = 0
        for block in blocks:
            end = position + block.shape[1]
            low, high = max(first, position), end if last is None else min(last, end)
            if low < high:
                yield block[:, low - position : high - position]
            position = end
            if last is not None and position >= last:
                break
        self.close()

    def close(self) -> None:
        """End decoders that are still running."""
        while self._running:
            self._running.pop().close()

    def _check_unchanged(self) -> None:
        if not self.path.is_file():
            raise sound.AudioError(self.path, "it is no longer there")
        if self.sha256 and runs.sha256_file(self.path) != self.sha256:
            raise sound.AudioError(self.path, "it has changed since `preprocess` read it")


@dataclass(frozen=True)
class Jobs:
    """What there is to do, and what cannot be done."""

    jobs: list[Job]
    losses: list[str]
    """path: reason."""
    source: Input


def find_jobs(
    run: Run, project: Project, audio: Sequence[Path], dataset: Path | None = None
) -> Jobs:
    """The files in `audio`, else those of the dataset, with the dataset's split.

    Raises UserError where there are none.
    """
    return _of_audio(project, audio) if audio else _of_dataset(dataset or run.dataset)


def _of_dataset(directory: Path) -> Jobs:
    manifest = directory / MANIFEST
    if directory.is_dir() and not manifest.is_file() and runs.read_run(directory) is None:
        raise UserError(
            f"{directory} does not say which files it was made from",
            why=f"it has no {MANIFEST}: `rave preprocess` writes none",
            do_this="name the recordings with --audio.",
        )
    if not directory.is_dir():
        raise UserError(
            f"there is no dataset in {directory}",
            do_this="make one (`latentdiff preprocess`), or name recordings with --audio.",
        )
    runs.require_done(directory, "preprocess", "preprocess")
    jobs = []
    for row in runs.read_jsonl(manifest):
        if "skipped" not in row:
            jobs += _of_row(row)
    if not jobs:
        raise UserError(f"{manifest} lists no file that can be used")
    return Jobs(jobs, [], Input(str(manifest), runs.sha256_file(manifest)))


def _of_row(row: dict[str, Any]) -> list[Job]:
    """A file of the dataset; as two parts where its end is held out for validation."""
    key, path = row["key"], Path(row["path"])
    sha256, seconds = row.get("sha256"), row["seconds"]
    border = row.get("validation_from")
    if border is None:
        return [Job(key, path, seconds, row["split"], sha256=sha256)]
    return _parts(key, path, seconds, border, sha256)


def _parts(
    key: str, path: Path, seconds: float, border: float, sha256: str | None = None
) -> list[Job]:
    name = PurePosixPath(key)
    head, tail = (str(name.with_stem(f"{name.stem} {side}")) for side in ("train", "validation"))
    return [
        Job(head, path, border, "train", stop=border, sha256=sha256),
        Job(tail, path, seconds - border, "validation", start=border, sha256=sha256),
    ]


def _of_audio(project: Project, places: Sequence[Path]) -> Jobs:
    found = sound.find(places)
    losses = [f"{path}: {reason}" for path, reason in found.skipped]
    jobs = []
    for key, path in found.files:
        try:
            jobs.append(Job(key, path.resolve(), sound.probe(path).seconds))
        except sound.AudioError as error:
            losses.append(f"{path}: {error.why}")
    if not jobs:
        raise UserError(
            f"none of {len(losses)} files can be read",
            why="\n    " + "\n    ".join(losses[:5]),
            do_this="repair or convert them, or name another folder.",
        )
    jobs = _split(jobs, project)
    facts = json.dumps([[job.key, *job.identity()] for job in jobs])
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return Jobs(jobs, losses, Input("; ".join(map(str, places)), digest))


def _split(jobs: list[Job], project: Project) -> list[Job]:
    """Hold files out as `preprocess` does or, of a single one or where asked for, their ends."""
    share = project.data.validation
    longest = max(jobs, key=lambda job: job.seconds)
    if longest.seconds > 0 and (len(jobs) == 1 or project.data.hold_out == "ends"):
        least = min(LEAST_END, share * longest.seconds)
        return [part for job in jobs for part in _without_end(job, share, least)]
    chosen = held_out((job.key for job in jobs), share, project.seed)
    for job in jobs:
        if job.key in chosen:
            job.split = "validation"
    return jobs


def _without_end(job: Job, share: float, least: float) -> list[Job]:
    """A file and its held-out end; the whole file where that would be shorter than `least` s."""
    if share * job.seconds < least:
        return [job]
    return _parts(job.key, job.path, job.seconds, (1 - share) * job.seconds)
