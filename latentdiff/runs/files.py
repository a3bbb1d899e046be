"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentdiff.config import Values
from latentdiff.errors import UserError

PARTIAL = ".partial"
"""Suffix of half-written files; nothing reads them and the next start removes them."""


def make_directory(directory: Path) -> None:
    """Create a folder and its parents. Raises UserError if that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {directory}", why=str(error)) from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it is renamed to `path` if the block ends without error.

    The half-written file ends in `.partial`. It is flushed to disk before it is renamed, and is
    removed on any error. Raises UserError if the disk is full or not writable.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            do_this="free some space or choose another folder; finished files are unharmed.",
        ) from error
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Values]) -> None:
    """Write one JSON object per line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[Values]:
    """The rows of a JSON-lines file. Raises UserError if it is missing or damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}", why=str(error)) from error


def remove_partial(directory: Path) -> None:
    """Remove the half-written files of an interrupted run, in all subfolders."""
    for path in directory.rglob("*" + PARTIAL):
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """sha256 of a file in hex, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Free bytes on the disk where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
