"""What `encode` has to do: the files of the dataset, or those in given folders.

Shapes: N audio samples.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.audio.health import HealthMeter
from latentdiff.commands.hold_out import require_both
from latentdiff.errors import UserError
from latentdiff.evaluation.leaks import Leak, refuse_leaks
from latentdiff.evaluation.sound import LevelMeter
from latentdiff.latents.store import MANIFEST
from latentdiff.model.project import Project
from latentdiff.rave.manifest import DatasetFile, read_manifest
from latentdiff.runs import Input, Run
from latentdiff.specs import Codec
from latentdiff.split import held_out, part_keys

LEAST_END = 0.5
"""Seconds; a shorter end of a file is not held out."""

Identity = list[str | int | float | None]
"""Values that identify a recording's content, as stored in JSON; if they differ, it is encoded
again."""


@dataclass(eq=False)
class EncodeJob:
    """A file, or a part of one, to encode; and how far that has got."""

    key: str
    path: Path
    seconds: float
    """According to the dataset or the file's header."""
    split: str = "train"
    start: float = 0.0
    """Seconds into the file at which the part begins."""
    stop: float | None = None
    """Seconds into the file at which the part ends; None: at the end of the file."""
    sha256: str | None = None
    """The file's hash when the dataset was made; None: not checked."""
    failed: str = ""
    """Why the recording could not be encoded; empty if there was no problem."""
    samples: int = 0
    """N read so far, at the codec's rate."""
    level: LevelMeter = field(default_factory=LevelMeter)
    """Level of the audio read so far."""
    meter: HealthMeter = field(default_factory=HealthMeter)
    """Measures the recording as it is read; of a part, up to its end."""
    _open: list[Generator[NDArray[np.float32], None, None]] = field(default_factory=list)

    @property
    def label(self) -> str | None:
        """Name of the folder the file is in."""
        return PurePosixPath(self.key).parent.name or None

    def identity(self) -> Identity:
        """The current `Identity`; if the file is gone, it is empty, which matches no file."""
        try:
            info = self.path.stat()
        except OSError:
            return []
        return [str(self.path), info.st_size, info.st_mtime_ns, self.start, self.stop, self.split]

    def check_unchanged(self) -> None:
        """Raises AudioError unless the file is there, and as it was when the dataset was made."""
        if not self.path.is_file():
            raise sound.AudioError(self.path, "the file is gone")
        if self.sha256 and runs.sha256_file(self.path) != self.sha256:
            raise sound.AudioError(self.path, "the file has changed since `preprocess` read it")

    def blocks(self, codec: Codec) -> Iterator[NDArray[np.float32]]:
        """Blocks [channels, N] for the codec. Errors do not raise: they end up in `failed`."""
        self.samples = 0
        try:
            self.check_unchanged()
            self.meter = HealthMeter()
            for block in self.slice(codec.sample_rate, codec.channels, self.meter):
                self.samples += block.shape[1]
                self.level.add(block)
                yield block
            if self.samples == 0:
                self.failed = "it has no samples"
        except sound.AudioError as error:
            self.failed = error.why
        except OSError as error:
            self.failed = str(error.strerror)

    def slice(
        self, sample_rate: int, channels: int, meter: HealthMeter | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Blocks [channels, N] of this part of the file, at a rate in Hz."""
        first = round(self.start * sample_rate)
        last = None if self.stop is None else round(self.stop * sample_rate)
        blocks = sound.blocks(self.path, sample_rate, channels, meter=meter)
        self._open.append(blocks)
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
        """Stop decoders that are still running."""
        while self._open:
            self._open.pop().close()


@dataclass(frozen=True)
class EncodeJobs:
    """Recordings to encode, and recordings that were skipped."""

    jobs: list[EncodeJob]
    skipped: list[str]
    """"path: reason" of every file that cannot be used."""
    source: Input
    """The dataset's manifest, or the audio folders, for `run.json`."""

    @property
    def files(self) -> int:
        """Number of files; one may have two jobs, if its end is held out."""
        return len({job.path for job in self.jobs})


def find_jobs(
    run: Run, project: Project, audio: Sequence[Path], dataset: Path | None = None
) -> EncodeJobs:
    """The files in `audio`; without any, those of the dataset with the dataset's split.

    Raises UserError if there are none, or a held-out file is also among the training files.
    """
    jobs = _of_audio(project, audio) if audio else _of_dataset(dataset or run.dataset, project)
    refuse_leaks(_leaks(jobs.jobs), allowed=project.training.leaks == "allow")
    return jobs


def _leaks(jobs: Sequence[EncodeJob]) -> list[Leak]:
    """Held-out files with the content of a training file; only files of equal size are read."""
    paths = {job.path: job for job in jobs}
    sizes = Counter(path.stat().st_size for path in paths if path.is_file())
    train: dict[str, str] = {}
    held_out: list[tuple[str, str]] = []
    for path, job in paths.items():
        # A file that is gone or whose end is held out cannot leak into another.
        if not path.is_file() or sizes[path.stat().st_size] < 2 or job.stop or job.start:
            continue
        digest = job.sha256 or runs.sha256_file(path)
        if job.split == "train":
            train.setdefault(digest, job.key)
        else:
            held_out.append((job.key, digest))
    return [Leak(key, train[digest], "content", 1.0) for key, digest in held_out if digest in train]


def _of_dataset(directory: Path, project: Project) -> EncodeJobs:
    manifest = directory / MANIFEST
    if directory.is_dir() and not manifest.is_file() and runs.read_run(directory) is None:
        raise UserError(
            f"the dataset in {directory} does not list its recordings",
            why=f"it has no {MANIFEST}, which `rave preprocess` does not write",
            do_this="name the recordings with --audio.",
        )
    if not directory.is_dir():
        raise UserError(
            f"there is no dataset in {directory}",
            do_this="make one with `latentdiff preprocess`, or name recordings with --audio.",
        )
    made = runs.require_done(directory, "preprocess", "preprocess")
    wanted = project.data.validation_audio
    if wanted and wanted != made.config.get("data", {}).get("validation_audio"):
        raise UserError(
            f"the dataset in {directory} has a split of its own",
            do_this="give --validation to `latentdiff preprocess`, or beside --audio.",
        )
    jobs = [job for file in read_manifest(directory) for job in _of_file(file)]
    if not jobs:
        raise UserError(
            f"{manifest} lists no usable file",
            do_this="run `latentdiff preprocess` again, or name recordings with --audio.",
        )
    return EncodeJobs(jobs, [], Input(str(manifest), runs.sha256_file(manifest)))


def _of_file(file: DatasetFile) -> list[EncodeJob]:
    """A file of the dataset, in two parts if its end is held out for validation."""
    path = Path(file.path)
    if file.validation_from is None:
        return [EncodeJob(file.key, path, file.seconds, file.split, sha256=file.sha256)]
    return _parts(file.key, path, file.seconds, file.validation_from, file.sha256)


def _parts(
    key: str, path: Path, seconds: float, border: float, sha256: str | None = None
) -> list[EncodeJob]:
    """A file as the part to train on and the held-out end from `border` seconds on."""
    head, tail = part_keys(key)
    return [
        EncodeJob(head, path, border, "train", stop=border, sha256=sha256),
        EncodeJob(tail, path, seconds - border, "validation", start=border, sha256=sha256),
    ]


def _of_audio(project: Project, places: Sequence[Path]) -> EncodeJobs:
    search = sound.find_split(places, project.data.validation_audio)
    skipped = [f"{path}: {reason}" for path, reason in search.skipped]
    jobs = []
    for key, path in search.files:
        try:
            jobs.append(EncodeJob(key, path.resolve(), sound.probe(path).seconds))
        except sound.AudioError as error:
            skipped.append(f"{path}: {error.why}")
    if not jobs:
        raise UserError(
            f"none of {len(skipped)} files can be read",
            why="\n    " + "\n    ".join(skipped[:5]),
            do_this="repair or convert them, or name another folder.",
        )
    jobs = _split(jobs, project, search.held_out)
    facts = json.dumps([[job.key, *job.identity()] for job in jobs])
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return EncodeJobs(jobs, skipped, Input("; ".join(map(str, places)), digest))


def _split(
    jobs: list[EncodeJob], project: Project, named: frozenset[str] | None
) -> list[EncodeJob]:
    """Hold out files as `preprocess` does, or the ends of files: of a single one, or on request.

    `named`: keys of the files to hold out instead.
    """
    share = project.data.validation
    if named is not None:
        require_both([job.key for job in jobs], named)
    longest = max(jobs, key=lambda job: job.seconds)
    by_end = len(jobs) == 1 or project.data.hold_out == "ends"
    if longest.seconds > 0 and by_end and named is None:
        least = min(LEAST_END, share * longest.seconds)
        return [part for job in jobs for part in _without_end(job, share, least)]
    chosen = named or held_out((job.key for job in jobs), share, project.seed)
    for job in jobs:
        if job.key in chosen:
            job.split = "validation"
    return jobs


def _without_end(job: EncodeJob, share: float, least: float) -> list[EncodeJob]:
    """A file in two parts; whole if its held-out end would be shorter than `least` seconds."""
    if share * job.seconds < least:
        return [job]
    return _parts(job.key, job.path, job.seconds, (1 - share) * job.seconds)
