"""manifest.jsonl beside a database: which recordings its records were cut from, and the split.

`preprocess` writes it; databases of `rave preprocess` have none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from latentdiff import runs
from latentdiff.errors import UserError

MANIFEST_FILE = "manifest.jsonl"


@dataclass(frozen=True)
class DatasetFile:
    """A recording that was read, and its records in the database."""

    key: str
    """Path below the folder it was found in; unique within the dataset."""
    path: str
    """Absolute path."""
    sha256: str
    """SHA-256 of the file, in hex."""
    seconds: float
    """Length of the recording; kept_seconds plus all of `dropped`."""
    kept_seconds: float
    """Seconds in the database, without the zeros that pad the last record."""
    dropped: dict[str, float]
    """Reason (`silence`) -> seconds that are not in the database."""
    clipped: int
    """Samples beyond full scale, in all channels."""
    split: Literal["train", "validation"]
    """Side of the whole file; `train` where only its end is held out."""
    first_chunk: int
    """Number of its first record in the database."""
    chunks: int
    """Number of records; they are consecutive."""
    validation_chunks: int = 0
    """How many of them, the last ones, are held out."""
    validation_from: float | None = None
    """Seconds into the recording at which the held-out end begins; None: split by file."""

    @property
    def training_records(self) -> range:
        """Record numbers to train on."""
        return range(self.first_chunk, self.first_chunk + self.chunks - self.validation_chunks)

    @property
    def validation_records(self) -> range:
        """Record numbers that are held out."""
        end = self.first_chunk + self.chunks
        return range(end - self.validation_chunks, end)


@dataclass(frozen=True)
class SkippedFile:
    """A recording that could not be used."""

    path: str
    skipped: str
    """The reason."""
    seconds: float
    """Length by its header; 0 where that is unknown."""

    @property
    def dropped(self) -> dict[str, float]:
        """Dropped seconds by reason, as in `DatasetFile`."""
        return {"unreadable": self.seconds} if self.seconds else {}


def write_manifest(directory: Path, files: list[DatasetFile], skipped: list[SkippedFile]) -> None:
    """Write it whole or not at all: the files in their order, then what was skipped."""
    rows = [_row_of_file(file) for file in files] + [_row_of_skipped(file) for file in skipped]
    runs.write_jsonl(directory / MANIFEST_FILE, rows)


def read_manifest(directory: Path) -> list[DatasetFile]:
    """The files that were not skipped. Raises UserError where it is missing or damaged."""
    path = directory / MANIFEST_FILE
    rows = [row for row in runs.read_jsonl(path) if "skipped" not in row]
    known = {field.name for field in fields(DatasetFile)}
    try:
        return [DatasetFile(**{k: v for k, v in row.items() if k in known}) for row in rows]
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged",
            why=str(error),
            do_this="make the dataset again: `latentdiff preprocess --overwrite`.",
        ) from error


def _row_of_file(file: DatasetFile) -> dict[str, Any]:
    row = asdict(file)
    if file.validation_from is None:
        del row["validation_from"]
    return row


def _row_of_skipped(file: SkippedFile) -> dict[str, Any]:
    # The first and the last two keys are those of a file of which nothing was kept.
    return {"key": None, **asdict(file), "kept_seconds": 0.0, "dropped": file.dropped}
