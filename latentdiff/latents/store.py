"""A folder of latents: raw posterior means [D, T], one `.npy` per recording, and their origin.

Our own stores have a manifest; a plain folder of `.npy` files is read too, see `plain`.
Arrays are stored frame by frame (Fortran order), so that they can be written as they are encoded,
and a window of a long file is one contiguous read.

Shapes: D latent dimensions, K condition features, T latent frames.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents import statistics
from latentdiff.latents.arrays import read_array
from latentdiff.latents.plain import read_plain
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.runs import RunInfo
from latentdiff.split import held_out, refuse_overlap

MANIFEST = "manifest.jsonl"
STATISTICS = "stats.safetensors"

PLAIN_VALIDATION = 0.1
"""Share of a plain folder's files that is held out; in our own stores each entry has its split."""

SETTLED = 2.0
"""Seconds after which a file's modification time identifies its content: a file that was written
twice within the resolution of the clock can have one time for two contents."""

ManifestRow = dict[str, str | int | float | dict[str, str] | None]
"""A line of the manifest: the fields of an `Entry`."""


@dataclass(frozen=True)
class Entry:
    """One recording of a store; paths are relative to the store's folder."""

    key: str
    """Unique in the store, such as `folder/song.wav`."""
    source: str | None
    """Path of the audio it was encoded from; None: unknown."""
    split: str
    """`train` or `validation`."""
    samples: int | None
    """Length of the audio at the codec's sample rate; None: unknown."""
    frames: int
    """T."""
    mean: str
    """File of the posterior means [D, T]."""
    std: str | None = None
    """File of the posterior's standard deviations [D, T]; None: not stored."""
    mel: str | None = None
    """File of the mel features [K, T]; None: not stored."""
    label: str | None = None
    """Name of the folder the audio was in, or the label from a label file."""
    start: float = 0.0
    """Seconds into the source at which it begins."""
    features: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Name -> file [K, T] of the condition features other than mel."""

    def row(self) -> ManifestRow:
        """The manifest row; `features` only if there are any, as in version 0.1."""
        return {key: value for key, value in asdict(self).items() if key != "features" or value}

    def with_features(self, files: Mapping[str, str]) -> Entry:
        """The entry with these files of condition features too, by name."""
        others = {name: file for name, file in files.items() if name != "mel"}
        return replace(self, mel=files.get("mel", self.mel), features={**self.features, **others})

    def as_validation(self, root: Path) -> Entry:
        """The entry, held out, in another store than that at `root`, which it is from."""
        files = {name: str(root / file) for name, file in self.features.items()}
        std, mel = (None if file is None else str(root / file) for file in (self.std, self.mel))
        return replace(
            self,
            key=f"validation/{self.key}",
            split="validation",
            mean=str(root / self.mean),
            std=std,
            mel=mel,
            features=files,
        )

    def feature_files(self) -> dict[str, str]:
        """Name -> file of all condition features."""
        return ({} if self.mel is None else {"mel": self.mel}) | dict(self.features)

    def files(self) -> list[str]:
        """Paths of all its arrays."""
        return [self.mean, *([self.std] if self.std else []), *self.feature_files().values()]


_ENTRY = TypeAdapter(Entry)


@dataclass(frozen=True)
class CodecFacts:
    """The codec as a store records it."""

    fingerprint: str
    """sha256 of its weights."""
    sample_rate: int
    """Hz."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    """D."""
    channels: int
    """Audio channels."""

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop


@dataclass(frozen=True)
class LatentStore:
    """Latents on disk; arrays are read on demand."""

    root: Path
    entries: list[Entry]
    latent_dim: int
    """D."""
    codec: CodecFacts | None = None
    """None: latents from elsewhere, of an unknown codec."""
    plain: bool = False
    """Whether another program may have written it: features are as long as they happen to be."""
    transposed: bool = False
    """Whether the files of the latents are [T, D]."""

    @classmethod
    def open(cls, path: Path) -> LatentStore:
        """The store in a folder, ours or plain, or a single `.npy` file as a store of one entry.

        A run directory stands for its latents. A file inside one of our stores keeps its codec.
        Raises UserError if there is none, if it is unfinished, or if a file is damaged or has
        another number of dimensions than the rest. Warns of plain arrays that may be transposed.
        """
        if not path.exists():
            raise UserError(f"no latents at {path}", do_this="make some with `latentdiff encode`.")
        if path.is_file():
            return _open_file(path)
        info = runs.read_run(path)
        if info is None and runs.read_run(path / "latents", "encode") is not None:
            return LatentStore.open(path / "latents")
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

    def with_validation(self, path: Path) -> LatentStore:
        """All of this store to train on, and all of the one at `path` to validate on.

        Keys of the latter begin with `validation/`. Raises UserError if one is inside the other, or
        if they do not belong together.
        """
        other = LatentStore.open(path)
        refuse_overlap([self.root], [other.root])
        codecs = [None if x.codec is None else x.codec.fingerprint for x in (self, other)]
        kinds = [(x.latent_dim, x.plain, x.transposed) for x in (self, other)]
        if kinds[0] != kinds[1] or codecs[0] != codecs[1]:
            raise UserError(
                f"the latents in {other.root} are not like those in {self.root}",
                why=f"they have {other.latent_dim} dimensions, and the others {self.latent_dim}"
                if self.latent_dim != other.latent_dim
                else "they are of another codec, or in another format",
                do_this="encode both with one codec, and in one way.",
            )
        train = [replace(entry, split="train") for entry in self.entries]
        held_out = [entry.as_validation(other.root.resolve()) for entry in other.entries]
        return replace(self, entries=train + held_out)

    def of(self, split: str) -> list[Entry]:
        """The entries of `train` or `validation`."""
        return [entry for entry in self.entries if entry.split == split]

    def mean(self, entry: Entry) -> np.ndarray:
        """Posterior means [D, T], a read-only memory map."""
        return self._read(entry, entry.mean, self.latent_dim)

    def std(self, entry: Entry) -> np.ndarray | None:
        """Posterior standard deviations [D, T]; None: not stored."""
        return None if entry.std is None else self._read(entry, entry.std, self.latent_dim)

    def features(self, entry: Entry, name: str) -> np.ndarray | None:
        """Condition features [K, T] of the kind `name`; None: not stored.

        Of a plain folder as they are in the file, [K, M] or [M, K] for some number of frames M.
        """
        file = entry.feature_files().get(name)
        if file is None:
            return None
        return read_array(self.root / file) if self.plain else self._read(entry, file, None)

    def statistics(self) -> LatentStatistics:
        """Statistics of the training files: saved by `encode`; of other latents, computed now.

        Raises UserError if they are missing, damaged, or cannot be computed.
        """
        info = runs.read_run(self.root)
        if info is not None and info.stage == "encode":
            return LatentStatistics.load(self.root / STATISTICS)
        return statistics.fit((self.mean(entry), self.std(entry)) for entry in self.of("train"))

    def fingerprint(self) -> str:
        """Identifies everything that training reads: sha256 in hex, `LATENTS+REST+KIND:...+...`.

        LATENTS covers key, split, latents and mel features of each entry, REST their labels and
        standard deviations, and KIND:... the features of one more kind each; a part is left out if
        no entry has any of it. Compare with `same_fingerprint`. A file is hashed again if its size
        or time changes.
        """
        latents, rest = hashlib.sha256(), hashlib.sha256()
        for entry in self.entries:
            arrays = " ".join(_sha256(self.root / name) for name in (entry.mean, entry.mel) if name)
            latents.update(f"{entry.key} {entry.split} {arrays}\n".encode())
            std = "" if entry.std is None else _sha256(self.root / entry.std)
            rest.update(f"{entry.key} {entry.label!r} {std}\n".encode())
        bare = all(entry.label is None and entry.std is None for entry in self.entries)
        kinds = sorted({name for entry in self.entries for name in entry.features})
        features = [f"{kind}:{self._features_digest(kind)}" for kind in kinds]
        return "+".join([latents.hexdigest(), *([] if bare else [rest.hexdigest()]), *features])

    def _features_digest(self, kind: str) -> str:
        digest = hashlib.sha256()
        for entry in self.entries:
            file = entry.features.get(kind)
            array = "" if file is None else _sha256(self.root / file)
            digest.update(f"{entry.key} {array}\n".encode())
        return digest.hexdigest()

    def digest(self, entry: Entry) -> str:
        """sha256 in hex of the latents' file: equal for recordings with the same samples."""
        return _sha256(self.root / entry.mean)

    def _read(self, entry: Entry, name: str, rows: int | None) -> np.ndarray:
        path = self.root / name
        array = read_array(path).T if self.transposed else read_array(path)
        if array.shape[1] != entry.frames or rows not in (None, array.shape[0]):
            raise UserError(
                f"{path} does not match the manifest",
                why=f"it is {list(array.shape)}, not [{rows or 'K'}, {entry.frames}]",
                do_this="delete the latents folder and run `latentdiff encode` again.",
            )
        return array


def same_fingerprint(recorded: str | None, now: str) -> bool:
    """Whether a fingerprint in a run.json is that of the same files.

    Parts that it lacks do not count: version 0.1 recorded LATENTS alone, and features of more kinds
    may have been added since.
    """
    return recorded is not None and set(recorded.split("+")) <= set(now.split("+"))


def _open_file(path: Path) -> LatentStore:
    """One array: alone, or as the only entry of our store that contains it."""
    # A store keeps its arrays one folder down, a folder of samples beside its manifest.
    for root in path.resolve().parents[:2]:
        if (root / MANIFEST).is_file() and runs.read_run(root) is not None:
            store = LatentStore.open(root)
            one = [entry for entry in store.entries if root / entry.mean == path.resolve()]
            if one:
                return replace(store, entries=one)
    return _open_plain(path, None)


def _entry(root: Path, row: Mapping[str, object]) -> Entry:
    """A line of a manifest; those of `sample` have fewer fields than those of `encode`."""
    defaults = {"source": None, "split": "train", "samples": None}
    try:
        entry = _ENTRY.validate_python(defaults | dict(row))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{root / MANIFEST} has an invalid line",
            why=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            do_this="use a folder that `latentdiff encode` or `latentdiff sample` wrote.",
        ) from error
    for name in entry.files():
        # A manifest may come from a stranger: it must name nothing outside its folder.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{root / MANIFEST} names a file outside its folder: {name}")
    return entry


def _facts(info: RunInfo | None) -> CodecFacts | None:
    """The codec that a stage's run.json names; None if it names none."""
    if info is None:
        return None
    result = info.result
    fingerprint = info.fingerprint("codec") or result.get("codec")
    names = ("sample_rate", "hop", "latent_dim", "channels")
    if fingerprint is None or any(name not in result for name in names):
        return None
    return CodecFacts(str(fingerprint), *(int(result[name]) for name in names))


def _open_plain(path: Path, facts: CodecFacts | None) -> LatentStore:
    plain = read_plain(path, known=facts is not None)
    chosen = held_out([file.key for file in plain.files], PLAIN_VALIDATION, seed=0)
    entries = [
        Entry(
            key=file.key,
            source=None,
            split="validation" if file.key in chosen else "train",
            samples=None,
            frames=file.frames,
            mean=file.mean,
            std=file.std,
            mel=file.mel,
            label=file.label,
        )
        for file in plain.files
    ]
    return LatentStore(
        plain.root, entries, plain.latent_dim, facts, plain=True, transposed=plain.transposed
    )


def _sha256(path: Path) -> str:
    """sha256 of a file, read once while its size and modification time stay the same."""
    status = path.stat()
    if time.time() - status.st_mtime < SETTLED:
        return runs.sha256_file(path)
    return _settled_sha256(path.absolute(), status.st_size, status.st_mtime_ns)


@cache
def _settled_sha256(path: Path, size: int, mtime_ns: int) -> str:
    return runs.sha256_file(path)
