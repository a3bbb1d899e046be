"""Audio files -> records of a database: decoded in parallel, written in order.

Threads decode the files (libsndfile, ffmpeg and torch release Python's lock), each into a spool
file; one writer appends the spools in the order of the files. So the database does not depend on
the number of workers, and memory is constant whatever the length of a file.

Shapes: N samples.
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
from numpy.typing import NDArray

from latentdiff import audio as sound
from latentdiff import runs, tracking
from latentdiff.audio.cut import loudest_db, records
from latentdiff.audio.health import FileHealth, HealthMeter
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import LevelMeter, is_silent
from latentdiff.rave.database import FULL_SCALE, DatabaseWriter

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RecordSpec:
    """Format of the records in a database."""

    sample_rate: int
    """Hz."""
    channels: int
    size: int
    """Samples per record."""
    silence_db: float | None
    """dBFS; records that are quieter (see `loudest_db`) are dropped. None keeps all."""


@dataclass(frozen=True)
class SourceFile:
    """One file to decode."""

    index: int
    """Position in the database."""
    key: str
    path: Path
    header_seconds: float
    """Length according to its header."""


@dataclass
class FileOutcome:
    """Result of decoding one file; counts are in samples at the database's rate."""

    source: SourceFile
    samples: int = 0
    """Samples decoded in total."""
    silent: int = 0
    """Samples dropped as silent."""
    clipped: int = 0
    """Samples beyond full scale, over all channels."""
    positions: list[int] = field(default_factory=list)
    """Indices of the kept records within the file."""
    audible: list[bool] = field(default_factory=list)
    """Whether each of the records kept is louder than SILENT_DB."""
    level: LevelMeter = field(default_factory=LevelMeter)
    """Level of all kept records."""
    sha256: str = ""
    """SHA-256 of the file, in hex."""
    health: FileHealth | None = None
    """What was measured of the whole file; None if it cannot be used."""
    skipped: str = ""
    """Why the file cannot be used; empty if it can."""


@dataclass(frozen=True)
class _Workers:
    """State shared between the decoding threads and the writer."""

    spool: Path
    stop: threading.Event
    progress: SimpleQueue[float]


def fill(
    directory: Path, sources: list[SourceFile], spec: RecordSpec, workers: int
) -> list[FileOutcome]:
    """Decode all files and write the database; returns the outcomes in the order of the sources.

    Raises UserError if the disk is full or not writable.
    """
    shared = _Workers(directory, threading.Event(), SimpleQueue())
    outcomes = []
    total = sum(source.header_seconds for source in sources)
    try:
        with (
            tracking.progress(total=round(total), unit="s", what="preprocess") as bar,
            DatabaseWriter(directory, spec.sample_rate, spec.channels) as database,
            _one_torch_thread(),
        ):

            def tick() -> None:
                while not shared.progress.empty():
                    bar.update(shared.progress.get())

            def work(source: SourceFile) -> FileOutcome:
                return _decode(source, spec, shared)

            with closing(in_order(work, sources, workers, shared.stop, tick)) as done:
                for outcome in done:
                    _append(database, outcome, spec, shared.spool)
                    outcomes.append(outcome)
    except OSError as error:
        raise UserError(
            f"cannot write into {directory}",
            why=error.strerror or str(error),
            do_this="free some space or choose another folder, then run the same command again.",
        ) from error
    finally:
        runs.remove_partial(directory)
    return outcomes


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread in each worker.

    Its threads and ours would compete: resampling an hour took three times the CPU time.
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
    """`work(item)` for every item, in order, computed by `workers` threads that run ahead.

    `tick` is called while waiting. Closing the generator sets `stop`, which `work` must watch, and
    ends the threads.
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
            # Enough to keep all workers busy; more would only fill the disk with spools.
            if len(pending) > 2 * workers:
                yield first()
        while pending:
            yield first()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(source: SourceFile, spec: RecordSpec, shared: _Workers) -> FileOutcome:
    """Decode one file into its spool: records of int16, one after the other."""
    outcome = FileOutcome(source)
    try:
        outcome.sha256 = runs.sha256_file(source.path)
    except OSError as error:
        outcome.skipped = str(error.strerror)
        return outcome
    seconds = min(spec.size / spec.sample_rate, 10.0)
    meter = HealthMeter()
    blocks = sound.blocks(source.path, spec.sample_rate, spec.channels, seconds, meter)
    try:
        with closing(blocks), open(_spool(source, shared.spool), "wb") as spool:
            for position, (record, length) in enumerate(records(blocks, spec.size)):
                if shared.stop.is_set():
                    break
                outcome.samples += length
                shared.progress.put(length / spec.sample_rate)
                if _is_silent(record[:, :length], spec):
                    outcome.silent += length
                    continue
                outcome.clipped += int(np.count_nonzero(np.abs(record) > 1))
                outcome.positions.append(position)
                outcome.audible.append(not is_silent(record[:, :length]))
                outcome.level.add(record[:, :length])
                spool.write(_quantised(record).tobytes())
    except sound.AudioError as error:
        return FileOutcome(source, skipped=error.why)
    outcome.health = meter.finish()
    return outcome


def _append(database: DatabaseWriter, outcome: FileOutcome, spec: RecordSpec, folder: Path) -> None:
    """Move the records of a spool into the database."""
    spool = _spool(outcome.source, folder)
    if not outcome.skipped:
        with open(spool, "rb") as file:
            while data := file.read(spec.channels * spec.size * 2):
                database.append(np.frombuffer(data, np.int16).reshape(spec.channels, spec.size))
    spool.unlink(missing_ok=True)


def _spool(source: SourceFile, folder: Path) -> Path:
    return folder / f"{source.index:08d}.pcm{runs.PARTIAL}"


def _quantised(record: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled: NDArray[np.float32] = np.rint(np.clip(record, -1, 1) * FULL_SCALE)
    return scaled.astype(np.int16)


def _is_silent(audio: NDArray[np.float32], spec: RecordSpec) -> bool:
    return spec.silence_db is not None and loudest_db(audio, spec.sample_rate) < spec.silence_db
