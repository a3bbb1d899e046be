"""Which files are held out for validation; stable when other files are added or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from latentdiff.errors import UserError


def held_out(keys: Iterable[str], share: float, seed: int) -> set[str]:
    """The `share` (0..1) of keys whose seeded hashes are lowest; at least one key, never all.

    Hashing makes the split independent of order, and adding files moves only few of the old ones.
    """

    def rank(key: str) -> bytes:
        return hashlib.sha256(f"{seed}:{key}".encode()).digest()

    ordered = sorted(keys, key=rank)
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])


def part_keys(key: str) -> tuple[str, str]:
    """Keys of the two parts of a file with a held-out end: its beginning, and its end."""
    name = PurePosixPath(key)
    head, tail = (str(name.with_stem(f"{name.stem} {side}")) for side in ("train", "validation"))
    return head, tail


def whole_key(head: str, tail: str) -> str | None:
    """The key of the file that two keys are the parts of, see `part_keys`; None if they are not
    parts."""
    name = PurePosixPath(head)
    key = str(name.with_stem(name.stem.removesuffix(" train") or name.stem))
    return key if part_keys(key) == (head, tail) else None


def refuse_overlap(training: Iterable[Path | str], held_out: Iterable[Path | str]) -> None:
    """Raise UserError where a place for validation is, holds, or is inside one to train on."""
    for place in map(Path, training):
        for other in map(Path, held_out):
            first, second = place.expanduser().resolve(), other.expanduser().resolve()
            if first.is_relative_to(second) or second.is_relative_to(first):
                raise overlap(f"{other} and {place} overlap")


def overlap(what: str) -> UserError:
    """The error for files that are on both sides; `what` names them."""
    return UserError(
        f"files for validation are also training files: {what}",
        why="the model would be judged by what it has been shown",
        do_this="move them into a folder of their own, outside of the other.",
    )
