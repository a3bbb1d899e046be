"""Finds audio files and gives each the key that identifies it from here on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff.errors import UserError
from latentdiff.split import overlap, refuse_overlap

_LIBSNDFILE = "wav wave flac ogg oga opus mp3 aif aiff aifc au snd caf w64 rf64"
_FFMPEG = "m4a m4b aac mp4 mp2 mpga wma wv ape ac3 eac3 dts amr mka spx tta alac"
_VIDEO = "mkv mov webm avi m4v mpg mpeg flv wmv 3gp ogv"
EXTENSIONS = frozenset(f"{_LIBSNDFILE} {_FFMPEG} {_VIDEO}".split())
"""Lower-case extensions that `find` accepts in folders; a file named by itself may have any."""


@dataclass(frozen=True)
class FoundAudio:
    """Result of a search, sorted by key."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    """(key, path): the key is the path below the folder that was searched, with `/` between."""
    hidden: int = 0
    """Number of audio files and folders ignored because their name begins with a dot."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of files that look like audio but cannot be read."""
    held_out: frozenset[str] | None = None
    """Keys of the files in the folders named for validation; None: none were named."""


def find_split(paths: Sequence[Path | str], held_out: Sequence[Path | str]) -> FoundAudio:
    """`find` in `paths` and, for validation, in `held_out`; keys of the latter begin with
    `validation/`.

    Raises UserError as `find` does, and where a file is in both.
    """
    found = find(paths)
    if not held_out:
        return found
    refuse_overlap(paths, held_out)
    other = find(held_out)
    real = {os.path.realpath(path): path for _, path in found.files}
    for _, path in other.files:
        if (same := real.get(os.path.realpath(path))) is not None:
            raise overlap(f"{printable(path)} is {printable(same)}")
    name = "validation"
    while any(key.startswith(f"{name}/") for key, _ in found.files):
        name += "-"
    files = [(f"{name}/{key}", path) for key, path in other.files]
    return FoundAudio(
        sorted([*found.files, *files]),
        found.hidden + other.hidden,
        sorted([*found.skipped, *other.skipped]),
        frozenset(key for key, _ in files),
    )


def find(paths: Sequence[Path | str]) -> FoundAudio:
    """All audio in the given folders and files, each file once, however many links lead to it.

    Keys are relative to the folder searched; with several folders, they begin with its name.
    Raises UserError if a path does not exist or nothing looks like audio.
    """
    roots = [_existing(Path(path)) for path in paths]
    if not roots:
        raise UserError("no audio given", do_this="name a folder or files with --audio.")
    labels = _labels(roots)
    search = _Search()
    for root in roots:
        prefix = labels.get(_folder_of(root), "")
        if root.is_dir():
            search.folder(root, prefix)
        else:
            search.file(root, f"{prefix}{root.name}")
    if not search.files and not search.skipped:
        raise UserError(
            f"no audio in {', '.join(map(str, roots))}",
            why=f"no file has one of the extensions {' '.join(sorted(EXTENSIONS))}"
            + (f"; {search.hidden} hidden ones were ignored" if search.hidden else ""),
            do_this="name the folder that contains the recordings.",
        )
    return FoundAudio(sorted(search.files), search.hidden, sorted(search.skipped))


class _Search:
    """Walks folders in alphabetical order and remembers what it has seen."""

    def __init__(self) -> None:
        self.files: list[tuple[str, Path]] = []
        self.skipped: list[tuple[str, str]] = []
        self.hidden = 0
        self._seen: set[str] = set()

    def folder(self, folder: Path, prefix: str) -> None:
        """Everything below `folder`; a file's key is `prefix` plus its path from there."""
        pending = [(folder, prefix)]
        while pending:
            here, before = pending.pop()
            if not self._first_time(here):
                continue
            try:
                entries = sorted(os.scandir(here), key=lambda entry: entry.name)
            except OSError as error:
                self._skip(here, f"folder cannot be read: {error.strerror}")
                continue
            for entry in entries:
                path, is_folder = here / entry.name, _is_folder(entry)
                if not is_folder and _extension(entry.name) not in EXTENSIONS:
                    continue
                if entry.name.startswith("."):
                    self.hidden += 1
                elif is_folder:
                    pending.append((path, f"{before}{entry.name}/"))
                else:
                    self.file(path, f"{before}{entry.name}")

    def file(self, path: Path, key: str) -> None:
        """Add one file, unless it was seen under another name or cannot be read."""
        reason = _why_unreadable(path)
        if reason:
            self._skip(path, reason)
        elif self._first_time(path):
            self.files.append((key, path))

    def _first_time(self, path: Path) -> bool:
        real = os.path.realpath(path)
        if real in self._seen:
            return False
        self._seen.add(real)
        return True

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append((printable(path), reason))


def printable(path: Path | str) -> str:
    """The path as text that can be printed and written as UTF-8, even if its bytes are not
    UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _existing(path: Path) -> Path:
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"no such folder or file: {printable(path)}", do_this="check the path.")
    return path


def _folder_of(root: Path) -> str:
    return os.path.realpath(root if root.is_dir() else root.parent)


def _labels(roots: Iterable[Path]) -> dict[str, str]:
    """Folder -> a unique prefix for its keys; no prefixes if there is only one folder."""
    folders = list(dict.fromkeys(_folder_of(root) for root in roots))
    if len(folders) == 1:
        return {}
    labels: dict[str, str] = {}
    for folder in folders:
        name = label = Path(folder).name or "root"
        number = 2
        while f"{label}/" in labels.values():
            label, number = f"{name}-{number}", number + 1
        labels[folder] = f"{label}/"
    return labels


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _extension(name: str) -> str:
    _, dot, extension = name.rpartition(".")
    return extension.lower() if dot else ""


def _why_unreadable(path: Path) -> str:
    """Why a file cannot be used; empty if it can."""
    try:
        str(path).encode("utf-8")
        info = path.stat()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    except FileNotFoundError:
        return "broken link"
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISREG(info.st_mode):
        return "not a regular file"
    if info.st_size == 0:
        return "empty: 0 bytes"
    try:
        # Permission bits do not tell on network disks; reading does.
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
