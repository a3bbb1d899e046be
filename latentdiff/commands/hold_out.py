"""Which recordings, or which ends of them, `preprocess` holds out for validation."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from latentdiff.commands.record_writer import FileOutcome, RecordSpec
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.model.project import Project
from latentdiff.rave.manifest import DatasetFile
from latentdiff.split import held_out

log = logging.getLogger(__name__)

NAMED_FILES = 5
"""Files that a message names."""


def split(
    files: list[DatasetFile],
    read: list[FileOutcome],
    spec: RecordSpec,
    project: Project,
    named: frozenset[str] | None = None,
) -> list[DatasetFile]:
    """Hold out whole files or, of a single one or where asked for, the ends of files.

    `named`: keys of the files to hold out instead; UserError if there is no sound in them, or none
    in the others. Only sound is held out: a codec that puts out nothing reconstructs silence
    perfectly.
    """
    share = project.data.validation
    by_key = {outcome.source.key: outcome for outcome in read}
    audible = [file.key for file in files if file.chunks and is_audible(by_key[file.key])]
    _warn_of_silent_files([f.key for f in files if f.chunks and f.key not in audible], len(files))
    if named is not None:
        require_both(audible, named)
        return [_held_out(file) if file.key in named else file for file in files]
    if len(audible) == 1 or project.data.hold_out == "ends":
        ends = {key: _end(by_key[key], share) for key in audible}
        if any(ends.values()):
            _warn_of_split_by_time(len(audible), len(files))
            return [_without_end(f, ends.get(f.key, 0), by_key[f.key], spec) for f in files]
    if len(audible) == 1:
        log.warning(
            "nothing is held out: %s is the only file that is not silent, and it is too short to "
            "divide. Training needs a validation set: add recordings, or lower data.chunk (and "
            "rave.n_signal).",
            *audible,
        )
        return files
    chosen = held_out(audible, share, project.seed)
    return [_held_out(file) if file.key in chosen else file for file in files]


def require_both(usable: Collection[str], named: frozenset[str]) -> None:
    """Raise UserError unless files to train on and files of `named` are usable; both are keys."""
    for what, some in (
        ("validation", any(key in named for key in usable)),
        ("training", any(key not in named for key in usable)),
    ):
        if not some:
            raise UserError(
                f"there is no sound in the {what} files",
                why="they are (nearly) silent, or none of them can be read",
                do_this="name other recordings with --audio and --validation.",
            )


def is_audible(outcome: FileOutcome) -> bool:
    """Whether a file as a whole is louder than SILENT_DB."""
    return outcome.level.db >= SILENT_DB


def _held_out(file: DatasetFile) -> DatasetFile:
    return replace(file, split="validation", validation_chunks=file.chunks)


def _end(outcome: FileOutcome, share: float) -> int:
    """Number of records to hold out at the end of a file; 0 where it cannot be divided.

    About `share` of the file, but reaching back far enough to hold sound.
    """
    count = len(outcome.positions)
    end = min(max(1, round(share * count)), count - 1)
    while end < count and not any(outcome.audible[count - end :]):
        end += 1
    return end if any(outcome.audible[: count - end]) else 0


def _without_end(
    file: DatasetFile, end: int, outcome: FileOutcome, spec: RecordSpec
) -> DatasetFile:
    """The file with its last `end` records held out."""
    if not end:
        return file
    border = outcome.positions[-end] * spec.size / spec.sample_rate
    return replace(file, validation_chunks=end, validation_from=border)


def _warn_of_split_by_time(audible: int, files: int) -> None:
    only = "the only file" if files == 1 else "the only file that is not silent"
    log.warning(
        "validation is by time within %s, not by file: it will look better than it would on music "
        "that is new to the model.",
        only if audible == 1 else "every file",
    )


def _warn_of_silent_files(silent: list[str], files: int) -> None:
    if not silent:
        return
    more = f" and {len(silent) - NAMED_FILES} more" if len(silent) > NAMED_FILES else ""
    log.warning(
        "%d of %d files are (nearly) silent, below %.0f dBFS RMS, and are not used for validation: "
        "%s%s. Check them; data.silence_db=%.0f leaves silence out of the training set too.",
        *(len(silent), files, SILENT_DB, ", ".join(silent[:NAMED_FILES]), more, SILENT_DB),
    )
