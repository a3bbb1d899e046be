"""Recordings -> a RAVE database, with every second accounted for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.commands.record_writer import Cut, Job, Outcome, fill, in_order
from latentdiff.errors import UserError
from latentdiff.model.project import Project, begin
from latentdiff.rave.database import MANIFEST_FILE
from latentdiff.runs import Input, Run, Stage
from latentdiff.split import held_out

log = logging.getLogger(__name__)

_STAGE = "preprocess"
# Spelling of the places (the files themselves are an input) and number of readers.
_HARMLESS = ("data.audio", "data.workers")
_LISTED_FILES = 40


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

    Returns `path: reason` for every file that could not be used. Raises UserError where a place is
    missing or unsuitable, the disk is full, or no sound is left.
    """
    directory = dataset or run.dataset
    before = runs.read_run(directory, _STAGE)
    places = [Path(p) for p in (audio or project.data.audio)]
    if not places and before and before.is_done:
        log.info("%s: already done, nothing to do (name --audio to make it anew)", directory)
        return []
    found = sound.find(places)
    _check_places(directory, places)
    project = _with_places(project, places)
    source = Input("; ".join(map(sound.printable, places)), _fingerprint(found))
    if dry_run:
        _dry_run(project, directory, found)
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
        log.info("%s: stopped before its end the last time, starting clean", directory)
    with stage:
        return _make(stage, project, found)


def _make(stage: Stage, project: Project, found: sound.FoundAudio) -> list[str]:
    """Fill an open stage folder: database, manifest, result."""
    cut = _cut(project)
    jobs, skipped = _probe(found, _worker_count(project))
    _check_space(stage.directory, jobs, cut)
    outcomes = fill(stage.directory, jobs, cut, _worker_count(project))
    _require_sound(outcomes, cut)
    rows = _rows(outcomes, cut)
    _split(rows, outcomes, cut, project)
    # Skipped while searching or probing, then while decoding: one list, by path.
    lost = [_skipped_row(sound.printable(path), reason, 0.0) for path, reason in skipped]
    lost += [
        _skipped_row(sound.printable(o.job.path), o.skipped, o.job.header_seconds)
        for o in outcomes
        if o.skipped
    ]
    lost.sort(key=lambda row: str(row["path"]))
    runs.write_jsonl(stage.directory / MANIFEST_FILE, rows + lost)
    result = _result(rows, lost, cut, found.hidden)
    stage.record(**result, fingerprint=runs.sha256_file(stage.directory / MANIFEST_FILE))
    _report(rows, result, stage.directory)
    return [f"{row['path']}: {row['skipped']}" for row in lost]


def _rows(outcomes: list[Outcome], cut: Cut) -> list[dict[str, Any]]:
    """The manifest's rows of the files that were read; the split is still to be made."""
    rows, first = [], 0
    for outcome in outcomes:
        if outcome.skipped:
            continue
        silent = outcome.silent / cut.sample_rate
        rows.append(
            {
                "key": outcome.job.key,
                "path": str(outcome.job.path.resolve()),
                "sha256": outcome.sha256,
                "seconds": outcome.samples / cut.sample_rate,
                "kept_seconds": (outcome.samples - outcome.silent) / cut.sample_rate,
                "dropped": {"silence": silent} if silent else {},
                "clipped": outcome.clipped,
                "split": "train",
                "first_chunk": first,
                "chunks": len(outcome.positions),
                "validation_chunks": 0,
            }
        )
        first += len(outcome.positions)
    return rows


def _skipped_row(path: str, reason: str, seconds: float) -> dict[str, Any]:
    dropped = {"unreadable": seconds} if seconds else {}
    return {
        "key": None,
        "path": path,
        "skipped": reason,
        "seconds": seconds,
        "kept_seconds": 0.0,
        "dropped": dropped,
    }


def _split(rows: list[dict[str, Any]], outcomes: list[Outcome], cut: Cut, project: Project) -> None:
    """Hold out files or, of a single one or where asked for, the ends of files."""
    share = project.data.validation
    usable = [row for row in rows if row["chunks"]]
    divisible = [row for row in usable if row["chunks"] > 1]
    if len(usable) == 1 or (project.data.hold_out == "ends" and divisible):
        for row in divisible:
            _split_within(row, outcomes, cut, share)
        log.warning(
            "validation is by time within %s, and not by file. It will look better than on music "
            "that the model has never heard.",
            "the only file" if len(usable) == 1 else "every file",
        )
        return
    chosen = held_out((row["key"] for row in usable), share, project.seed)
    for row in usable:
        if row["key"] in chosen:
            row["split"] = "validation"
            row["validation_chunks"] = row["chunks"]


def _split_within(row: dict[str, Any], outcomes: list[Outcome], cut: Cut, share: float) -> None:
    """Hold out the end of a file of two chunks or more."""
    count = min(max(1, round(share * row["chunks"])), row["chunks"] - 1)
    positions = next(o.positions for o in outcomes if o.job.key == row["key"])
    row["validation_chunks"] = count
    row["validation_from"] = positions[-count] * cut.size / cut.sample_rate


def _require_sound(outcomes: list[Outcome], cut: Cut) -> None:
    """Raise UserError where there is not enough to train on and to validate with."""
    chunks = sum(len(outcome.positions) for outcome in outcomes)
    if chunks >= 2:
        return
    reasons = [f"{o.job.key}: {o.skipped}" for o in outcomes if o.skipped][:5]
    silent = sum(o.silent for o in outcomes) / cut.sample_rate
    if silent:
        reasons.append(f"{silent:.1f} s are below data.silence_db = {cut.silence_db}")
    raise UserError(
        f"not enough sound: {chunks} chunk(s) of {cut.size / cut.sample_rate:.2f} s, and "
        "training and validation need one each",
        why="; ".join(reasons) or "there is too little audio",
        do_this="add recordings, or lower data.chunk (and rave.n_signal).",
    )


def _result(
    rows: list[dict[str, Any]], lost: list[dict[str, Any]], cut: Cut, hidden: int
) -> dict[str, Any]:
    """The facts of `run.json`."""
    dropped: dict[str, float] = {}
    for row in rows + lost:
        for reason, seconds in row["dropped"].items():
            dropped[reason] = dropped.get(reason, 0.0) + seconds
    chunks = sum(row["chunks"] for row in rows)
    validation = sum(row["validation_chunks"] for row in rows)
    return {
        "seconds_in": sum(row["seconds"] for row in rows + lost),
        "seconds_kept": sum(row["kept_seconds"] for row in rows),
        "dropped": dropped,
        "files": len(rows),
        "skipped": len(lost),
        "hidden": hidden,
        "clipped": sum(row["clipped"] for row in rows),
        "sample_rate": cut.sample_rate,
        "channels": cut.channels,
        "chunk": cut.size,
        "chunks": chunks,
        "train_chunks": chunks - validation,
        "validation_chunks": validation,
        "validation_by": "time" if any("validation_from" in row for row in rows) else "file",
    }


def _report(rows: list[dict[str, Any]], result: dict[str, Any], directory: Path) -> None:
    """The account as a table: in = kept + dropped, per file and in all."""
    line = "%10.2f %10.2f %10.2f %7d  %-10s %s"
    log.info(
        "%10s %10s %10s %7s  %-10s %s", "in s", "kept s", "silent s", "chunks", "split", "file"
    )
    for row in rows[:_LISTED_FILES]:
        silent = row["dropped"].get("silence", 0.0)
        counts = row["seconds"], row["kept_seconds"], silent, row["chunks"]
        log.info(line, *counts, row["split"] if row["chunks"] else "-", row["key"])
    if len(rows) > _LISTED_FILES:
        log.info("%61s ... and %d more in %s", "", len(rows) - _LISTED_FILES, MANIFEST_FILE)
    parts = [f"{seconds:.2f} s {reason}" for reason, seconds in result["dropped"].items()]
    log.info(
        "in %.2f s = kept %.2f s + dropped %s",
        result["seconds_in"],
        result["seconds_kept"],
        " + ".join(parts) or "0.00 s",
    )
    log.info(
        "%d chunks of %d samples at %d Hz: %d to train, %d to validate (held out by %s)",
        result["chunks"],
        result["chunk"],
        result["sample_rate"],
        result["train_chunks"],
        result["validation_chunks"],
        result["validation_by"],
    )
    if result["hidden"]:
        log.info("%d hidden files and folders passed over", result["hidden"])
    if result["clipped"]:
        log.warning("%d samples were beyond full scale and are clipped", result["clipped"])
    log.info("dataset: %s", directory)


def _probe(found: sound.FoundAudio, workers: int) -> tuple[list[Job], list[tuple[str, str]]]:
    """A job for every file whose header can be read; (path, reason) for the others."""
    jobs, skipped = [], list(found.skipped)
    with closing(in_order(_header, found.files, workers, threading.Event())) as headers:
        for index, ((key, path), header) in enumerate(zip(found.files, headers, strict=True)):
            if isinstance(header, str):
                skipped.append((str(path), header))
            else:
                jobs.append(Job(index, key, path, header))
    if not jobs:
        listed = "\n    ".join(f"{sound.printable(path)}: {reason}" for path, reason in skipped[:5])
        raise UserError(
            f"none of {len(skipped)} files can be read",
            why="\n    " + listed,
            do_this="repair or convert them, or name another folder.",
        )
    return jobs, skipped


def _header(file: tuple[str, Path]) -> float | str:
    """Seconds by the header, or the reason why there is none."""
    try:
        return sound.probe(file[1]).seconds
    except sound.AudioError as error:
        return error.why


def _cut(project: Project) -> Cut:
    data = project.data
    size = data.chunk or 2 * project.rave.n_signal
    return Cut(data.sample_rate, data.channels, size, data.silence_db)


def _worker_count(project: Project) -> int:
    if project.data.workers:
        return project.data.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes_needed(jobs: list[Job], cut: Cut) -> int:
    """Of the database, by the headers; the last record of each file counts whole."""
    count = sum(job.header_seconds * cut.sample_rate // cut.size + 1 for job in jobs)
    return int(count) * cut.size * cut.channels * 2


def _check_space(directory: Path, jobs: list[Job], cut: Cut) -> None:
    need, free = _bytes_needed(jobs, cut), runs.free_bytes(directory)
    if need > free:
        raise UserError(
            f"the disk of {directory} is too full",
            why=f"the database takes about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            do_this="free some space or choose another --run.",
        )


def _check_places(directory: Path, places: Sequence[Path]) -> None:
    """Raise UserError where the output lies in the input, or the other way round."""
    there = directory.expanduser().resolve()
    for place in places:
        here = place.expanduser().resolve()
        if here.is_dir() and there.is_relative_to(here):
            raise UserError(
                f"the output {directory} lies inside the audio folder {place}",
                why="what the run writes would be taken for recordings the next time",
                do_this="choose a --run outside of it.",
            )
        if here.is_relative_to(there):
            raise UserError(
                f"the audio {place} lies inside the output {directory}",
                why="making the dataset anew would delete it",
                do_this="choose another --run, or move the recordings out of it.",
            )


def _with_places(project: Project, places: Sequence[Path]) -> Project:
    """The project with the places in it, so that the run remembers them."""
    data = project.data.model_copy(update={"audio": [str(place) for place in places]})
    return project.model_copy(update={"data": data})


def _fingerprint(found: sound.FoundAudio) -> str:
    """sha256 of names, sizes and dates: whether these are the files of last time."""
    facts = []
    for key, path in found.files:
        info = path.stat()
        facts.append([key, info.st_size, info.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _dry_run(project: Project, directory: Path, found: sound.FoundAudio) -> None:
    cut = _cut(project)
    jobs, skipped = _probe(found, _worker_count(project))
    seconds = sum(job.header_seconds for job in jobs)
    log.info("would read %d files, %.1f s by their headers", len(jobs), seconds)
    for path, reason in skipped:
        log.warning("would skip %s: %s", path, reason)
    size = _bytes_needed(jobs, cut) / 1e6
    log.info("would write %s: about %.1f MB of chunks of %d samples", directory, size, cut.size)
    _check_space(directory, jobs, cut)
