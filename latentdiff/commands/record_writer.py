"""Audio files -> records of a database, decoded side by side, written in order.

Files are decoded by threads (libsndfile, ffmpeg and torch work outside Python's lock), each into a
spool file; one writer takes the spools in the order of the files. So the database does not depend
on how many workers there are, and memory stays flat however long a file is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from latentdiff import audio as sound
from latentdiff import runs, tracking
from latentdiff.audio.cut import loudest_db, records
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import LevelMeter, is_silent
from latentdiff.rave.database import FULL_SCALE, DatabaseWriter

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Cut:
    """How every file is made into records."""

    sample_rate: int
    channels: int
    size: int
    silence_db: float | None


@dataclass(frozen=True)
class Job:
    """One file to decode."""

    index: int
    key: str
    path: Path
    header_seconds: float


@dataclass
class Outcome:
    """What became of one file; counts in samples at the database's rate."""

    job: Job
    samples: int = 0
    silent: int = 0
    clipped: int = 0
    positions: list[int] = field(default_factory=list)
    """Of the records kept, counted from the start of the file."""
    audible: list[bool] = field(default_factory=list)
    """Whether each of the records kept is louder than SILENT_DB."""
    level: LevelMeter = field(default_factory=LevelMeter)
    """Of all records kept."""
    sha256: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class _Workers:
    """What the threads share with the writer."""

    spool: Path
    stop: threading.Event
    progress: SimpleQueue[float]


def fill(directory: Path, jobs: list[Job], cut: Cut, workers: int) -> list[Outcome]:
    """Decode all files and write the database; the outcomes in the order of the jobs."""
    shared = _Workers(directory, threading.Event(), SimpleQueue())
    outcomes = []
    total = sum(job.header_seconds for job in jobs)
    try:
        with (
            tracking.progress(total=round(total), unit="s", what="preprocess") as bar,
            DatabaseWriter(directory, cut.sample_rate, cut.channels) as database,
            _one_torch_thread(),
        ):

            def tick() -> None:
                while not shared.progress.empty():
                    bar.update(shared.progress.get())

            def work(job: Job) -> Outcome:
                return _decode(job, cut, shared)

            with closing(in_order(work, jobs, workers, shared.stop, tick)) as done:
                for outcome in done:
                    _append(database, outcome, cut, shared.spool)
                    outcomes.append(outcome)
    except OSError as error:
        raise UserError(
            f"cannot write into {directory}",
            why=error.strerror or str(error),
            do_this="free some space or choose another folder, then give the same command again.",
        ) from error
    finally:
        runs.remove_partial(directory)
    return outcomes


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Torch on one thread in each worker: its own threads beside ours wait more than they work.

    Resampling an hour took three times the processor time with them.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(
    work: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    stop: threading.Event,
    tick: Callable[[], None] = lambda: None,
) -> Generator[R, None, None]:
    """`work` of every item, in order, by `workers` threads that run a little ahead.

    Closing it sets `stop`, which the work watches, and ends the threads.
    """
    pool = futures.ThreadPoolExecutor(workers)
    pending: deque[futures.Future[R]] = deque()

    def first() -> R:
        while not futures.wait([pending[0]], timeout=_POLL_SECONDS).done:
            tick()
        tick()
        return pending.popleft().result()

    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * workers:
                yield first()
        while pending:
            yield first()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(job: Job, cut: Cut, shared: _Workers) -> Outcome:
    """One file into its spool: records of int16, one after the other."""
    outcome = Outcome(job)
    try:
        outcome.sha256 = runs.sha256_file(job.path)
    except OSError as error:
        outcome.skipped = str(error.strerror)
        return outcome
    seconds = min(cut.size / cut.sample_rate, 10.0)
    blocks = sound.blocks(job.path, cut.sample_rate, cut.channels, seconds)
    try:
        with closing(blocks), open(_spool(job, shared.spool), "wb") as spool:
            for position, (record, length) in enumerate(records(blocks, cut.size)):
                if shared.stop.is_set():
                    break
                outcome.samples += length
                shared.progress.put(length / cut.sample_rate)
                if _is_silent(record[:, :length], cut):
                    outcome.silent += length
                    continue
                outcome.clipped += int(np.count_nonzero(np.abs(record) > 1))
                outcome.positions.append(position)
                outcome.audible.append(not is_silent(record[:, :length]))
                outcome.level.add(record[:, :length])
                spool.write(_quantised(record).tobytes())
    except sound.AudioError as error:
        return Outcome(job, skipped=error.why)
    return outcome


def _append(database: DatabaseWriter, outcome: Outcome, cut: Cut, folder: Path) -> None:
    """Move a spool into the database."""
    spool = _spool(outcome.job, folder)
    if not outcome.skipped:
        with open(spool, "rb") as file:
            while data := file.read(cut.channels * cut.size * 2):
                database.append(np.frombuffer(data, np.int16).reshape(cut.channels, cut.size))
    spool.unlink(missing_ok=True)


def _spool(job: Job, folder: Path) -> Path:
    return folder / f"{job.index:08d}.pcm{runs.PARTIAL}"


def _quantised(record: np.ndarray) -> np.ndarray:
    samples: np.ndarray = np.rint(np.clip(record, -1, 1) * FULL_SCALE).astype(np.int16)
    return samples


def _is_silent(audio: np.ndarray, cut: Cut) -> bool:
    return cut.silence_db is not None and loudest_db(audio, cut.sample_rate) < cut.silence_db
