"""What an interrupted `encode` leaves for the next one: a line for each completed file.

Why the lines can be trusted: a file's arrays are written beside their names, flushed to disk and
renamed, and only then is its line appended. So a line stands for complete arrays; arrays without a
line are made again. The manifest and the statistics, which make the folder a store, are written
after all lines, and only then are the lines removed.

Shapes: D latent dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from latentdiff import runs
from latentdiff.audio.health import FileHealth
from latentdiff.commands.encode_jobs import EncodeJob, Identity
from latentdiff.evaluation.sound import LevelMeter, json_db
from latentdiff.latents.store import Entry

PROGRESS = "encoded.jsonl"
"""The leader's file; other processes have `encoded.RANK.jsonl`, so that no two write into one."""


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

    def progress_row(self) -> dict[str, object]:
        """This file's row in a progress file: all that a resumed run needs."""
        return {
            **self.entry.row(),
            "identity": self.identity,
            "level": asdict(self.level),
            "posterior": self.posterior,
            "health": None if self.health is None else asdict(self.health),
        }

    def manifest_row(self) -> dict[str, object]:
        """This file's row in the store's manifest."""
        return {**self.entry.row(), "level_db": json_db(self.level.db)}

    @classmethod
    def from_progress_row(cls, row: Mapping[str, Any]) -> EncodedFile:
        """Read a line that `progress_row` wrote."""
        entry = Entry(**{key.name: row[key.name] for key in fields(Entry) if key.name in row})
        health = FileHealth(**row["health"]) if row.get("health") else None
        return cls(entry, row["identity"], LevelMeter(**row["level"]), row["posterior"], health)


class ProgressLog:
    """The progress files of a store: one for each process that has encoded into it."""

    def __init__(self, root: Path, rank: int) -> None:
        self._root = root
        self._first = root / PROGRESS
        self._own = self._first if rank == 0 else self._first.with_suffix(f".{rank}.jsonl")

    def append(self, file: EncodedFile) -> None:
        """Note a completed file in this process's progress file."""
        with open(self._own, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(file.progress_row(), ensure_ascii=False) + "\n")

    def exists(self) -> bool:
        """Whether an earlier run has completed anything."""
        return bool(self._paths())

    def take_over(self, jobs: Iterable[EncodeJob]) -> dict[str, EncodedFile]:
        """Key -> file, for all files of `jobs` that earlier runs have completed.

        Files whose recording has changed since, or whose arrays are missing, are left out. Gathers
        all lines in the leader's file, since the next run may have another number of processes.
        """
        known = {job.key: job for job in jobs}
        done = {}
        paths = self._paths()
        for file in (file for path in paths for file in _read(path)):
            job = known.get(file.entry.key)
            if job and file.identity == job.identity() and self._is_complete(file.entry):
                done[file.entry.key] = file
        # The others go only when the leader's file has everything: an interruption in between
        # leaves some lines twice, and loses none.
        runs.write_jsonl(self._first, [file.progress_row() for file in done.values()])
        for path in paths:
            if path != self._first:
                path.unlink()
        return done

    def remove(self) -> None:
        """Remove all progress files: the store is complete."""
        for path in self._paths():
            path.unlink()

    def _paths(self) -> list[Path]:
        others = sorted(self._root.glob(f"{self._first.stem}.*{self._first.suffix}"))
        return [path for path in (self._first, *others) if path.exists()]

    def _is_complete(self, entry: Entry) -> bool:
        return all((self._root / name).is_file() for name in entry.files())


def _read(path: Path) -> Iterator[EncodedFile]:
    """The files of a progress file, up to a line that a kill cut short."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield EncodedFile.from_progress_row(row)
