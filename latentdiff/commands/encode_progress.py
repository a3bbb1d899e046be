"""What an interrupted `encode` leaves for the next one: a line for each completed file.

Why the lines can be trusted: a file's arrays are written beside their names, flushed to disk and
renamed, and only then is its line appended. So a line stands for complete arrays; arrays without a
line are made again. The manifest and the statistics, which make the folder a store, are written
after all lines, and only then are the lines removed.

Shapes: D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from latentdiff.audio.health import FileHealth
from latentdiff.commands.encode_jobs import EncodeJob, Identity
from latentdiff.config import Values
from latentdiff.evaluation.sound import LevelMeter, json_db
from latentdiff.latents.store import Entry
from latentdiff.runs import ProgressFiles

PROGRESS = "encoded.jsonl"
"""Name of the files of `ProgressLog`."""


@dataclass(frozen=True)
class EncodedFile:
    """A file whose arrays are complete and on disk."""

    entry: Entry
    identity: Identity
    """Identity of the recording when it was encoded; a later run keeps the result if it still
    matches."""
    level: LevelMeter
    """Level of the audio at the codec's sample rate."""
    posterior: list[float]
    """[D], RMS over its frames of the posterior's standard deviation."""
    health: FileHealth | None = None
    """What was measured of the recording; None: encoded by an earlier version."""

    def progress_row(self) -> Values:
        """This file's row in a progress file: all that a resumed run needs."""
        return {
            **self.entry.row(),
            "identity": self.identity,
            "level": asdict(self.level),
            "posterior": self.posterior,
            "health": None if self.health is None else asdict(self.health),
        }

    def manifest_row(self) -> Values:
        """This file's row in the store's manifest."""
        return {**self.entry.row(), "level_db": json_db(self.level.db)}

    @classmethod
    def from_progress_row(cls, row: Mapping[str, Any]) -> EncodedFile:
        """Read a line that `progress_row` wrote."""
        entry = Entry(**{key.name: row[key.name] for key in fields(Entry) if key.name in row})
        health = FileHealth(**row["health"]) if row.get("health") else None
        return cls(entry, row["identity"], LevelMeter(**row["level"]), row["posterior"], health)


class ProgressLog:
    """What an interrupted `encode` has completed."""

    def __init__(self, root: Path, rank: int) -> None:
        self._root = root
        self._files = ProgressFiles(root, PROGRESS, rank)

    def append(self, file: EncodedFile) -> None:
        """Note a completed file in this process's progress file."""
        self._files.append(file.progress_row())

    def exists(self) -> bool:
        """Whether an earlier run has completed anything."""
        return self._files.exists()

    def take_over(self, jobs: Iterable[EncodeJob]) -> dict[str, EncodedFile]:
        """Key -> file, for all files of `jobs` that earlier runs have completed.

        Files whose recording has changed since, or whose arrays are missing, are left out.
        """
        known = {job.key: job for job in jobs}
        done = {}
        for file in map(EncodedFile.from_progress_row, self._files.rows()):
            job = known.get(file.entry.key)
            if job and file.identity == job.identity() and self._is_complete(file.entry):
                done[file.entry.key] = file
        self._files.replace(file.progress_row() for file in done.values())
        return done

    def remove(self) -> None:
        """Remove all progress files: the store is complete."""
        self._files.remove()

    def _is_complete(self, entry: Entry) -> bool:
        return all((self._root / name).is_file() for name in entry.files())
