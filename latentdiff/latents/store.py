"""A folder of latents: raw posterior means [D, T], one `.npy` a file, and what is known of them.

Our own stores carry a manifest; a plain folder of `.npy` files ([D, T] or [1, D, T]) is one too.
Arrays lie frame after frame on disk (Fortran order): they are written as they come, and a window of
a long file is read in one stretch.

Shapes: D latent dimensions, K condition features, T latent frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents import statistics
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.runs import RunInfo
from latentdiff.split import held_out

MANIFEST = "manifest.jsonl"
STATISTICS = "stats.safetensors"

PLAIN_VALIDATION = 0.1
"""Share of a plain folder's files that is held out; our own stores say it file by file."""


@dataclass(frozen=True)
class Entry:
    """One file of a store; paths are relative to the store's folder."""

    key: str
    source: str | None
    """The audio it was made from."""
    split: str
    """`train` or `validation`."""
    samples: int | None
    """Length of the audio at the codec's rate; None where it is not known."""
    frames: int
    """T."""
    mean: str
    std: str | None = None
    mel: str | None = None
    label: str | None = None
    """Name of the folder that the audio lay in."""
    start: float = 0.0
    """Seconds into the source at which it begins."""

    def row(self) -> dict[str, Any]:
        """The manifest's line for it."""
        return asdict(self)


@dataclass(frozen=True)
class CodecFacts:
    """What a store remembers of the codec that made it."""

    fingerprint: str
    sample_rate: int
    hop: int
    latent_dim: int
    channels: int


@dataclass(frozen=True)
class LatentStore:
    """Latents on disk; nothing is read before it is asked for."""

    root: Path
    entries: list[Entry]
    latent_dim: int
    codec: CodecFacts | None = None
    """None for latents that somebody else made."""

    @classmethod
    def open(cls, path: Path) -> LatentStore:
        """The store in a folder, ours or plain; or a single `.npy` file as a store of one, which
        knows its codec where it lies in a store of ours.

        Raises UserError where there is none, where it is unfinished, or where a file is damaged or
        has another number of dimensions than the rest.
        """
        if not path.exists():
            raise UserError(f"no latents at {path}", do_this="make them: `latentdiff encode`.")
        if path.is_file():
            return _open_file(path)
        info = runs.read_run(path)
        if info is not None:
            runs.require_done(path, info.stage, info.stage)
        if info is None or not (path / MANIFEST).is_file():
            return _open_plain(path, _facts(info))
        entries = [_entry(path, row) for row in runs.read_jsonl(path / MANIFEST)]
        if not entries:
            raise UserError(f"there are no latents in {path}", why="its manifest is empty")
        facts = _facts(info)
        latent_dim = facts.latent_dim if facts else read_array(path / entries[0].mean).shape[0]
        return cls(path, entries, latent_dim, facts)

    def of(self, split: str) -> list[Entry]:
        """The entries of `train` or `validation`."""
        return [entry for entry in self.entries if entry.split == split]

    def mean(self, entry: Entry) -> np.ndarray:
        """Posterior means [D, T], mapped into memory and read only."""
        return self._read(entry, entry.mean, self.latent_dim)

    def std(self, entry: Entry) -> np.ndarray | None:
        """Posterior standard deviations [D, T]; None where they were not stored."""
        return None if entry.std is None else self._read(entry, entry.std, self.latent_dim)

    def mel(self, entry: Entry) -> np.ndarray | None:
        """Mel features [K, T]; None where they were not stored."""
        return None if entry.mel is None else self._read(entry, entry.mel, None)

    def statistics(self) -> LatentStatistics:
        """Of the training files: those that `encode` left; of other latents, gathered now.

        Raises UserError where they are missing, damaged, or cannot be gathered.
        """
        info = runs.read_run(self.root)
        if info is not None and info.stage == "encode":
            return LatentStatistics.load(self.root / STATISTICS)
        return statistics.fit((self.mean(entry), self.std(entry)) for entry in self.of("train"))

    def fingerprint(self) -> str:
        """sha256 over keys, split, latents and mel features: everything training reads."""
        digest = hashlib.sha256()
        for entry in self.entries:
            names = [name for name in (entry.mean, entry.mel) if name]
            arrays = [runs.sha256_file(self.root / name) for name in names]
            digest.update(f"{entry.key} {entry.split} {' '.join(arrays)}\n".encode())
        return digest.hexdigest()

    def _read(self, entry: Entry, name: str, rows: int | None) -> np.ndarray:
        path = self.root / name
        array = read_array(path)
        if array.shape[1] != entry.frames or rows not in (None, array.shape[0]):
            wanted = f"[{rows or 'K'}, {entry.frames}]"
            raise UserError(
                f"{path} is not what the manifest says",
                why=f"it is {list(array.shape)}, not {wanted}",
                do_this="delete the latents folder and run `latentdiff encode` again.",
            )
        return array


def read_array(path: Path) -> np.ndarray:
    """A `.npy` file as [rows, T] of float, mapped into memory; [1, rows, T] loses its 1.

    Raises UserError where it is missing, damaged, or something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read",
            why="it is missing, damaged or no .npy array: " + str(error).splitlines()[0],
            do_this="make it again, or take it out of the folder.",
        ) from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f":
        raise UserError(
            f"{path} holds no latents",
            why=f"it is {list(array.shape)} of {array.dtype}; latents are [dimensions, frames] "
            "or [1, dimensions, frames] of floats",
        )
    return array


class ArrayWriter:
    """Writes float32 [rows, T] piece by piece, T unknown until the end; see `array_writer`."""

    def __init__(self, file: BinaryIO) -> None:
        self.frames = 0
        self._rows = 0
        self._file = file

    def append(self, piece: np.ndarray) -> None:
        """The next frames [rows, t]."""
        if self.frames == 0:
            self._rows = piece.shape[0]
            self._file.write(_header(self._rows, 0))
        self._file.write(np.ascontiguousarray(piece.T, dtype="<f4").tobytes())
        self.frames += piece.shape[1]

    def finish(self) -> None:
        """Write the header again, now that the length is known."""
        self._file.seek(0)
        self._file.write(_header(self._rows, self.frames))


@contextmanager
def array_writer(path: Path) -> Iterator[ArrayWriter]:
    """A `.npy` file that appears whole when the block ends, or not at all.

    Raises UserError where the disk is full or not writable.
    """
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial, open(partial, "wb") as file:
        writer = ArrayWriter(file)
        yield writer
        writer.finish()


def _header(rows: int, frames: int) -> bytes:
    """An npy header (format 1.0) of 128 bytes, whatever the number of frames."""
    text = f"{{'descr': '<f4', 'fortran_order': True, 'shape': ({rows}, {frames}), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.encode().ljust(117) + b"\n"


def _open_file(path: Path) -> LatentStore:
    """One array: alone, or as the only entry of the store of ours that it lies in."""
    for root in path.resolve().parents[:2]:
        if (root / MANIFEST).is_file() and runs.read_run(root) is not None:
            store = LatentStore.open(root)
            one = [entry for entry in store.entries if root / entry.mean == path.resolve()]
            if one:
                return replace(store, entries=one)
    return _open_plain(path, None)


def _entry(root: Path, row: dict[str, Any]) -> Entry:
    """A line of a manifest; those of `sample` say less than those of `encode`."""
    known = {field.name for field in fields(Entry)}
    defaults = {"source": None, "split": "train", "samples": None}
    try:
        entry = Entry(**(defaults | {name: row[name] for name in row if name in known}))
    except TypeError as error:
        raise UserError(f"{root / MANIFEST} has a line that is not ours", why=str(error)) from error
    for name in (entry.mean, entry.std, entry.mel):
        # A manifest may come from a stranger: it can name nothing outside its folder.
        if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise UserError(f"{root / MANIFEST} names a file outside its folder: {name}")
    return entry


def _facts(info: RunInfo | None) -> CodecFacts | None:
    """The codec that a stage's run.json speaks of, if it does."""
    if info is None:
        return None
    result = info.result
    fingerprint = info.fingerprint("codec") or result.get("codec")
    names = ("sample_rate", "hop", "latent_dim", "channels")
    if fingerprint is None or any(name not in result for name in names):
        return None
    return CodecFacts(str(fingerprint), *(int(result[name]) for name in names))


def _open_plain(path: Path, facts: CodecFacts | None) -> LatentStore:
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.npy")) if path.is_dir() else [path]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise UserError(
            f"there are no latents in {path}",
            why="no .npy file and no manifest",
            do_this="give a folder that `latentdiff encode` or `latentdiff sample` wrote.",
        )
    shapes = [read_array(file).shape for file in files]
    for file, shape in zip(files, shapes, strict=True):
        if shape[0] != shapes[0][0]:
            raise UserError(
                f"{file} has {shape[0]} dimensions, {files[0].name} has {shapes[0][0]}",
                why="latents of different codecs cannot be used together",
                do_this="keep them in folders of their own (latents are [dimensions, frames]).",
            )
    keys = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    chosen = held_out(keys, PLAIN_VALIDATION, seed=0)
    entries = [
        Entry(
            key=key,
            source=None,
            split="validation" if key in chosen else "train",
            samples=None,
            frames=shape[1],
            mean=file.relative_to(root).as_posix(),
            label=key.rpartition("/")[0].rpartition("/")[2] or None,
        )
        for key, file, shape in zip(keys, files, shapes, strict=True)
    ]
    return LatentStore(root, entries, shapes[0][0], facts)
