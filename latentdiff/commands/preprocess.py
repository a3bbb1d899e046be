"""`preprocess`: recordings -> a RAVE database, with every second accounted for."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.audio.health import FileHealth, HealthFinding, duplicates, find_problems
from latentdiff.commands.health import warn_of
from latentdiff.commands.hold_out import NAMED_FILES, is_audible, split
from latentdiff.commands.record_writer import FileOutcome, RecordSpec, SourceFile, fill, in_order
from latentdiff.errors import UserError
from latentdiff.evaluation.leaks import Leak, refuse_leaks
from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.model.project import Project, begin
from latentdiff.rave.manifest import MANIFEST_FILE, DatasetFile, SkippedFile, write_manifest
from latentdiff.runs import Input, Run, Stage

log = logging.getLogger(__name__)

_STAGE = "preprocess"
# How the places are spelt (the files themselves are an input), and the number of readers.
_HARMLESS = ("data.audio", "data.beats", "data.workers")
_LISTED_FILES = 40
"""Rows of the report."""


@dataclass(frozen=True)
class DatasetResult:
    """The result that `run.json` stores; seconds_in = seconds_kept + the sum of dropped."""

    seconds_in: float
    """Duration of all files found; that of skipped ones is read from their header."""
    seconds_kept: float
    dropped: dict[str, float]
    """Reason (`silence`, `unreadable`) -> seconds."""
    files: int
    """Number of files read."""
    skipped: int
    """Number of files that could not be used."""
    hidden: int
    """Number of hidden files and folders ignored."""
    clipped: int
    """Samples beyond full scale, in all channels."""
    sample_rate: int
    """Hz."""
    channels: int
    chunk: int
    """Samples per record."""
    chunks: int
    """Number of records: train_chunks + validation_chunks."""
    train_chunks: int
    validation_chunks: int
    validation_by: str
    """`file`, or `time` where the ends of files are held out."""
    health: list[HealthFinding]
    """What is suspicious about the recordings."""


def preprocess(
    run: Run,
    project: Project,
    *,
    audio: Sequence[Path] = (),
    dataset: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Make the dataset from the files and folders in `audio` (or `data.audio` of the project).

    Returns `path: reason` for every file that was skipped. Raises UserError where a place is
    missing or unsuitable, the disk is full, or there is too little sound.
    """
    directory = dataset or run.dataset
    before = runs.read_run(directory, _STAGE)
    places = [Path(p) for p in (audio or project.data.audio)]
    if not places and before and before.is_done:
        log.info("%s: already done, nothing to do (--audio makes it from other files)", directory)
        return []
    validation = [Path(p) for p in project.data.validation_audio]
    search = sound.find_split(places, validation)
    _check_places(directory, [*places, *validation])
    project = _with_places(project, places)
    source = Input("; ".join(map(sound.printable, places)), _fingerprint(search))
    if dry_run:
        _dry_run(project, directory, search)
        return []
    stage = begin(
        run,
        project,
        directory,
        _STAGE,
        sections=["data"],
        inputs={"audio": source},
        overwrite=overwrite,
        harmless=_HARMLESS,
    )
    if stage is None:
        return []
    if before and not before.is_done and not overwrite:
        log.info("%s: the last run did not finish; starting from the beginning", directory)
    with stage:
        return _make(stage, project, search)


def _make(stage: Stage, project: Project, audio: sound.FoundAudio) -> list[str]:
    """Fill an open stage folder: database, manifest, result."""
    spec = _record_spec(project)
    sources, unreadable = _probe(audio, _worker_count(project))
    _check_space(stage.directory, sources, spec)
    outcomes = fill(stage.directory, sources, spec, _worker_count(project))
    _require_sound(outcomes, spec)
    # Skipped while searching or probing, then while decoding: one list, by path.
    skipped = [SkippedFile(sound.printable(path), reason, 0.0) for path, reason in unreadable]
    skipped += [_skipped(outcome) for outcome in outcomes if outcome.skipped]
    skipped.sort(key=lambda file: file.path)
    read = [outcome for outcome in outcomes if not outcome.skipped]
    files = split(_files(read, spec), read, spec, project, audio.held_out)
    health = {outcome.source.key: outcome.health for outcome in read if outcome.health}
    _refuse_leaks(files, health, project)
    write_manifest(stage.directory, files, skipped)
    held_out = sum(file.validation_chunks for file in files) * spec.size / spec.sample_rate
    problems = find_problems(health, channels=spec.channels, held_out_seconds=held_out)
    result = _result(files, skipped, spec, audio.hidden, problems)
    fingerprint = runs.sha256_file(stage.directory / MANIFEST_FILE)
    stage.record(**asdict(result), fingerprint=fingerprint)
    _report(files, result, stage.directory)
    warn_of([one for one in problems if one.kind != "silent"])  # `split` has named those
    return [f"{file.path}: {file.skipped}" for file in skipped]


def _refuse_leaks(
    files: list[DatasetFile], health: Mapping[str, FileHealth], project: Project
) -> None:
    """Raise UserError where a recording is on both sides of the split, under two names."""
    sides = {file.key: file.split for file in files if file.chunks}
    leaks = []
    for group in duplicates(health):
        train, held_out = (
            [key for key in group if sides.get(key) == side] for side in ("train", "validation")
        )
        leaks += [Leak(key, train[0], "content", 1.0) for key in held_out if train]
    refuse_leaks(leaks, allowed=project.training.leaks == "allow")


def _files(read: list[FileOutcome], spec: RecordSpec) -> list[DatasetFile]:
    """The manifest's files, all on the training side."""
    files, first = [], 0
    for outcome in read:
        silent = outcome.silent / spec.sample_rate
        files.append(
            DatasetFile(
                key=outcome.source.key,
                path=str(outcome.source.path.resolve()),
                sha256=outcome.sha256,
                seconds=outcome.samples / spec.sample_rate,
                kept_seconds=(outcome.samples - outcome.silent) / spec.sample_rate,
                dropped={"silence": silent} if silent else {},
                clipped=outcome.clipped,
                split="train",
                first_chunk=first,
                chunks=len(outcome.positions),
            )
        )
        first += len(outcome.positions)
    return files


def _skipped(outcome: FileOutcome) -> SkippedFile:
    path = sound.printable(outcome.source.path)
    return SkippedFile(path, outcome.skipped, outcome.source.header_seconds)


def _require_sound(outcomes: list[FileOutcome], spec: RecordSpec) -> None:
    """Raise UserError where there is not enough sound to train and to validate with."""
    chunks = sum(len(outcome.positions) for outcome in outcomes)
    if chunks < 2:
        raise _too_little(outcomes, chunks, spec)
    read = [outcome for outcome in outcomes if outcome.positions]
    if not any(is_audible(outcome) for outcome in read):
        loudest = max(outcome.level.db for outcome in read)
        level = f"at {loudest:.0f} dBFS RMS" if loudest > -math.inf else "digital silence"
        raise UserError(
            f"all {len(read)} file(s) are (nearly) silent",
            why=f"the loudest is {level}; below {SILENT_DB:.0f} there is nothing to learn from",
            do_this="listen to the recordings: is it the right folder, was the input connected? If "
            "they are only quiet, amplify them first.",
        )


def _too_little(outcomes: list[FileOutcome], chunks: int, spec: RecordSpec) -> UserError:
    reasons = [f"{o.source.key}: {o.skipped}" for o in outcomes if o.skipped][:NAMED_FILES]
    silent = sum(o.silent for o in outcomes) / spec.sample_rate
    if silent:
        reasons.append(f"{silent:.1f} s are below data.silence_db = {spec.silence_db}")
    return UserError(
        f"not enough sound: {chunks} chunk(s) of {spec.size / spec.sample_rate:.2f} s, and "
        "training and validation need one each",
        why="; ".join(reasons) or "there is too little audio",
        do_this="add recordings, or lower data.chunk (and rave.n_signal).",
    )


def _result(
    files: list[DatasetFile],
    skipped: list[SkippedFile],
    spec: RecordSpec,
    hidden: int,
    health: list[HealthFinding],
) -> DatasetResult:
    everything: list[DatasetFile | SkippedFile] = [*files, *skipped]
    dropped: dict[str, float] = {}
    for file in everything:
        for reason, seconds in file.dropped.items():
            dropped[reason] = dropped.get(reason, 0.0) + seconds
    chunks = sum(file.chunks for file in files)
    validation = sum(file.validation_chunks for file in files)
    by_time = any(file.validation_from is not None for file in files)
    return DatasetResult(
        seconds_in=sum(file.seconds for file in everything),
        seconds_kept=sum(file.kept_seconds for file in files),
        dropped=dropped,
        files=len(files),
        skipped=len(skipped),
        hidden=hidden,
        clipped=sum(file.clipped for file in files),
        sample_rate=spec.sample_rate,
        channels=spec.channels,
        chunk=spec.size,
        chunks=chunks,
        train_chunks=chunks - validation,
        validation_chunks=validation,
        validation_by="time" if by_time else "file",
        health=health,
    )


def _report(files: list[DatasetFile], result: DatasetResult, directory: Path) -> None:
    """The account as a table: in = kept + dropped, per file and in total."""
    _report_files(files)
    parts = [f"{seconds:.2f} s {reason}" for reason, seconds in result.dropped.items()]
    log.info(
        "in %.2f s = kept %.2f s + dropped %s",
        *(result.seconds_in, result.seconds_kept, " + ".join(parts) or "0.00 s"),
    )
    log.info(
        "%d chunks of %d samples at %d Hz: %d to train, %d to validate (held out by %s)",
        *(result.chunks, result.chunk, result.sample_rate),
        *(result.train_chunks, result.validation_chunks, result.validation_by),
    )
    if result.hidden:
        log.info("%d hidden files and folders ignored", result.hidden)
    if result.clipped:
        log.warning("%d samples were beyond full scale and are clipped", result.clipped)
    log.info("dataset: %s", directory)


def _report_files(files: list[DatasetFile]) -> None:
    line = "%10.2f %10.2f %10.2f %7d  %-10s %s"
    log.info(
        "%10s %10s %10s %7s  %-10s %s", "in s", "kept s", "silent s", "chunks", "split", "file"
    )
    for file in files[:_LISTED_FILES]:
        silent = file.dropped.get("silence", 0.0)
        counts = file.seconds, file.kept_seconds, silent, file.chunks
        log.info(line, *counts, file.split if file.chunks else "-", file.key)
    if len(files) > _LISTED_FILES:
        log.info("%61s ... and %d more in %s", "", len(files) - _LISTED_FILES, MANIFEST_FILE)


def _probe(
    audio: sound.FoundAudio, workers: int, channels: int | None = None
) -> tuple[list[SourceFile], list[tuple[str, str]]]:
    """The files with a readable header; (path, reason) for the others.

    `channels`: also leave out files that cannot be mixed to that number of channels. (A real run
    skips them when it reads them, with their length.)
    """
    sources, skipped = [], list(audio.skipped)
    header_of = partial(_header, channels)
    with closing(in_order(header_of, audio.files, workers, threading.Event())) as headers:
        for index, ((key, path), header) in enumerate(zip(audio.files, headers, strict=True)):
            if isinstance(header, str):
                skipped.append((str(path), header))
            else:
                sources.append(SourceFile(index, key, path, header))
    if not sources:
        named = skipped[:NAMED_FILES]
        listed = "\n    ".join(f"{sound.printable(path)}: {reason}" for path, reason in named)
        raise UserError(
            f"none of {len(skipped)} files can be read",
            why="\n    " + listed,
            do_this="repair or convert them, or name another folder.",
        )
    return sources, skipped


def _header(channels: int | None, file: tuple[str, Path]) -> float | str:
    """Seconds by the header, or the reason why it cannot be read."""
    try:
        return sound.probe(file[1], channels).seconds
    except sound.AudioError as error:
        return error.why


def _record_spec(project: Project) -> RecordSpec:
    data = project.data
    size = data.chunk or 2 * project.rave.n_signal
    return RecordSpec(data.sample_rate, data.channels, size, data.silence_db)


def _worker_count(project: Project) -> int:
    if project.data.workers:
        return project.data.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes_needed(sources: list[SourceFile], spec: RecordSpec) -> int:
    """Size of the database by the headers; the last record of each file counts in full."""
    count = sum(source.header_seconds * spec.sample_rate // spec.size + 1 for source in sources)
    return int(count) * spec.size * spec.channels * 2


def _check_space(directory: Path, sources: list[SourceFile], spec: RecordSpec) -> None:
    need, free = _bytes_needed(sources, spec), runs.free_bytes(directory)
    if need > free:
        raise UserError(
            f"the disk of {directory} is too full",
            why=f"the database needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            do_this="free some space or choose another --run.",
        )


def _check_places(directory: Path, places: Sequence[Path]) -> None:
    """Raise UserError where the output is inside the input, or the other way round."""
    output = directory.expanduser().resolve()
    for place in places:
        source = place.expanduser().resolve()
        if source.is_dir() and output.is_relative_to(source):
            raise UserError(
                f"the output {directory} is inside the audio folder {place}",
                why="the next run would read the files of this one as recordings",
                do_this="choose a --run outside of it.",
            )
        if source.is_relative_to(output):
            raise UserError(
                f"the audio {place} is inside the output {directory}",
                why="making the dataset again would delete it",
                do_this="choose another --run, or move the recordings out of it.",
            )


def _with_places(project: Project, places: Sequence[Path]) -> Project:
    """The project with these places, so that the run remembers them."""
    data = project.data.model_copy(update={"audio": [str(place) for place in places]})
    return project.model_copy(update={"data": data})


def _fingerprint(found: sound.FoundAudio) -> str:
    """sha256 of names, sizes and dates, which take no time to read, unlike the audio."""
    stats = [(key, path.stat()) for key, path in found.files]
    facts = [[key, info.st_size, info.st_mtime_ns] for key, info in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _dry_run(project: Project, directory: Path, found: sound.FoundAudio) -> None:
    spec = _record_spec(project)
    sources, skipped = _probe(found, _worker_count(project), project.data.channels)
    seconds = sum(source.header_seconds for source in sources)
    log.info("would read %d files, %.1f s by their headers", len(sources), seconds)
    for path, reason in skipped:
        log.warning("would skip %s: %s", path, reason)
    size = _bytes_needed(sources, spec) / 1e6
    log.info("would write %s: about %.1f MB of chunks of %d samples", directory, size, spec.size)
    _check_space(directory, sources, spec)
