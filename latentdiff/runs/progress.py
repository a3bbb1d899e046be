"""What interrupted work leaves for the next run that continues it: a line for each part done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from latentdiff.config import Values
from latentdiff.runs.files import write_jsonl


class ProgressFiles:
    """The progress files of one kind of work on a stage: one for each process that took part."""

    def __init__(self, root: Path, name: str, rank: int) -> None:
        """`name`: the leader's file; other processes have `STEM.RANK.jsonl`, so that no two write
        into one."""
        self._first = root / name
        self._own = self._first if rank == 0 else self._first.with_suffix(f".{rank}.jsonl")

    def append(self, row: Mapping[str, object]) -> None:
        """Add a line to this process's file."""
        with open(self._own, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    def exists(self) -> bool:
        """Whether an earlier run has completed anything."""
        return bool(self._paths())

    def rows(self) -> Iterator[Values]:
        """The lines of all files, of each up to one that a kill cut short."""
        for path in self._paths():
            yield from _read(path)

    def replace(self, rows: Iterable[Values]) -> None:
        """Leave these lines, all in the leader's file: the next run may have fewer processes."""
        paths = self._paths()
        # The others go only when the leader's file has everything: an interruption in between
        # leaves some lines twice, and loses none.
        write_jsonl(self._first, rows)
        for path in paths:
            if path != self._first:
                path.unlink()

    def remove(self) -> None:
        """Remove all files: the work is done."""
        for path in self._paths():
            path.unlink()

    def _paths(self) -> list[Path]:
        others = sorted(self._first.parent.glob(f"{self._first.stem}.*{self._first.suffix}"))
        return [path for path in (self._first, *others) if path.exists()]


def _read(path: Path) -> Iterator[Values]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield row
