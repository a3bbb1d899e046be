"""File names made from keys: readable, safe on any file system, and distinct within a folder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

_MAX_BYTES = 100
"""Longest file stem in UTF-8 bytes. File systems allow 255 bytes a name, some encrypted ones 143; a
hash and a suffix are appended later."""
_HASH_DIGITS = 8


def readable_stem(text: str) -> str:
    """`text` as the stem of a file name: letters and digits of any script, `.`, `_` and `-`.

    Everything else, spaces included, becomes `-`. At most 100 bytes of UTF-8, never empty.
    """
    # Composed, because some file systems (APFS) hold composed and decomposed letters to be equal.
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(c if _is_safe(c) else "-" for c in composed)
    stem = re.sub("-+", "-", kept).strip("-._")
    stem = stem.encode("utf-8")[:_MAX_BYTES].decode("utf-8", "ignore").rstrip("-._")
    return stem or "audio"


def file_stems(keys: Iterable[str]) -> dict[str, str]:
    """Key -> the stem of the file derived from it: the key's own name where no other key has it.

    The result depends on the set of keys only, not on their order.
    """
    return distinct_stems({key: readable_stem(PurePosixPath(key).stem) for key in keys})


def distinct_stems(wanted: Mapping[str, str]) -> dict[str, str]:
    """Key -> stem, from key -> wanted stem: stems that several keys want gain a hash of the key.

    Stems that differ in case only count as equal, as they do on macOS and Windows.
    """
    stems = dict(wanted)
    # 8 digits collide once in 4 billion pairs: among thousands of files of one name that happens.
    for digits in (_HASH_DIGITS, 64):
        counts = Counter(stem.casefold() for stem in stems.values())
        for key, stem in stems.items():
            if counts[stem.casefold()] > 1:
                stems[key] = _with_hash(wanted[key], key, digits)
    return stems


def _with_hash(stem: str, key: str, digits: int) -> str:
    return f"{stem}-{hashlib.sha256(key.encode('utf-8')).hexdigest()[:digits]}"


def _is_safe(character: str) -> bool:
    """Letters, marks (vowel signs of many scripts) and numbers; `.` and `_`."""
    return character in "._" or unicodedata.category(character)[0] in "LMN"
