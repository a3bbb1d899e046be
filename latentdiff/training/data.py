"""Windows cut from files, to train and validate on.

Shapes: B batch, C latent channels, D latent dimensions, F frames of all files together, K condition
features, T frames of a file, W frames of a window.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.specs import Allocate, Condition, DerivedFeatures
from latentdiff.training.rows import RowStorage

BLOCK = 1 << 16
"""Frames whitened at a time, so that files of any length need constant memory."""

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recording:
    """One file of the latent store; arrays may be memory maps and are read in blocks."""

    key: str
    """The file's name in the manifest, for messages."""
    latents: np.ndarray
    """[D, T], raw."""
    features: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    """Kind of condition -> [K, T], raw, aligned with the latents; None = the file has none."""
    categories: Mapping[str, int] = field(default_factory=dict)
    """Kind of condition -> index of the file's category, such as its label."""

    @property
    def frames(self) -> int:
        """T."""
        return int(self.latents.shape[-1])


class Batch(NamedTuple):
    """Windows with their masks, conditions and files."""

    latents: Tensor
    """[B, C, W] final latents; frames past a file's end repeat its last frame."""
    mask: Tensor
    """[B, W] bool, False for frames past the file's end."""
    condition: Condition
    """Features [B, K, W], standardised, and categories [B]."""
    files: Tensor
    """[B] index into `Windows.keys`."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = self.condition.to(device)
        return Batch(self.latents.to(device), self.mask.to(device), moved, self.files)

    def pick(self, index: Tensor | slice) -> Batch:
        """The windows at `index` along B."""
        chosen = self.condition.pick(index)
        return Batch(self.latents[index], self.mask[index], chosen, self.files[index])


class FeatureMap(NamedTuple):
    """What becomes of the stored features of a kind."""

    size: int
    """K."""
    standardise: Map
    """Raw features [K, t] -> those that the network gets."""


Derive = Callable[[Tensor, Tensor, Allocate], DerivedFeatures]
"""(final latents of all files as rows [F, C], frames of each file, where to keep large arrays) ->
derived features."""


class Windows:
    """All files of one split, whitened once and laid end to end, and the windows in them.

    `whiten` maps raw latents [D, t] to final ones [C, t], `transform_windows` final windows
    [B, C, W] to those the network gets (None: unchanged). `features` names the kinds of stored
    features, `derive` the kinds that are made from the latents. Frames are held in memory if they
    take at most `memory_gb`, and otherwise in an unnamed scratch file under `scratch` that vanishes
    with the process.

    Raises UserError naming the file if its latents or features are not finite, or not aligned.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        window: int,
        *,
        whiten: Map,
        features: Mapping[str, FeatureMap] | None = None,
        derive: Mapping[str, Derive] | None = None,
        transform_windows: Map | None = None,
        memory_gb: float = 4.0,
        scratch: Path | None = None,
    ) -> None:
        self.window = window
        self._transform_windows = transform_windows
        self.keys = [recording.key for recording in recordings]
        self._length = torch.tensor([recording.frames for recording in recordings])
        self._first = torch.cumsum(self._length, 0) - self._length
        self._positions = self._ends(window)
        arrays = [recording.latents for recording in recordings]
        self._on_disk = False
        storage = RowStorage(memory_gb, scratch)
        self._latents = self._lay_out(arrays, whiten, "latents", storage)
        self._features: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        for kind, (size, standardise) in (features or {}).items():
            aligned = [_aligned_features(recording, kind, size) for recording in recordings]
            what = f"{kind} features"
            laid_out = self._lay_out(aligned, standardise, what, storage)
            self._features[kind] = laid_out
            known = torch.tensor(
                [recording.features.get(kind) is not None for recording in recordings]
            )
            if not known.all():
                self._known[kind] = known
        # What is derived goes with the latents: to disk where they take too much memory.
        allocate = partial(storage.allocate, dtype=np.float64, on_disk=self._on_disk)
        self._derived = {
            kind: make(self._latents, self._length, allocate)
            for kind, make in (derive or {}).items()
        }
        self._categories = _categories(recordings)

    @property
    def slow(self) -> bool:
        """Whether windows are read from a disk."""
        return self._on_disk

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.keys)

    @property
    def frames(self) -> int:
        """F."""
        return int(self._length.sum())

    @property
    def channels(self) -> int:
        """C."""
        return self._latents.shape[1]

    @property
    def count(self) -> int:
        """Number of different windows."""
        return int(self._positions[-1])

    def draw(self, batch: int, generator: torch.Generator, part: slice = slice(None)) -> Batch:
        """`part` of `batch` windows, each position of each file equally likely."""
        places = torch.randint(self.count, (batch,), generator=generator)
        random = {kind: x.random(batch, generator)[part] for kind, x in self._derived.items()}
        return self._cut(places[part], random)

    def to(self, device: torch.device) -> Windows:
        """The same windows, cut on `device` if the frames are in memory and fit there easily."""
        size = sum(x.nbytes for x in (self._latents, *self._features.values()))
        if device.type != "cuda" or self._on_disk or size > _room_on(device):
            return self
        other = copy.copy(self)
        other._latents = self._latents.to(device)
        other._features = {kind: x.to(device) for kind, x in self._features.items()}
        return other

    def spread(self, most: int) -> Batch:
        """At most `most` fixed windows, evenly spread and overlapping as little as possible."""
        # Edge to edge in each file, then thinned out. The last window of a file is left out unless
        # half of it or more is new; it is moved back to end with the file.
        starts = [
            first + torch.arange(0, max(1, int(length) - self.window // 2), self.window)
            for first, length in zip(self._positions_before(), self._length, strict=True)
        ]
        limits = self._positions - 1
        clamped = [s.clamp(max=int(last)) for s, last in zip(starts, limits, strict=True)]
        places = torch.unique(torch.cat(clamped))
        chosen = torch.linspace(0, len(places) - 1, min(most, len(places))).round().long()
        return self._cut(places[chosen])

    def resized(self, window: int) -> Windows:
        """The same files with another window length; the frames are not copied."""
        other = copy.copy(self)
        other.window, other._positions = window, self._ends(window)
        return other

    def describe(self, batch: Batch, index: int) -> str:
        """The file name of one window of a batch."""
        return self.keys[int(batch.files[index])]

    def _ends(self, window: int) -> Tensor:
        # A file of T frames holds T - W + 1 windows; one shorter than W holds one, padded.
        return torch.cumsum((self._length - window + 1).clamp(min=1), 0)

    def _positions_before(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.long), self._positions[:-1]])

    def _cut(self, places: Tensor, random: Mapping[str, Tensor] | None = None) -> Batch:
        """The windows at `places` in 0..count - 1, gathered by one index without a loop.

        `random`: kind of derived features -> what they depend on; see `DerivedFeatures`.
        """
        files = torch.searchsorted(self._positions, places, right=True)
        start = places - self._positions_before()[files]
        frame = start[:, None] + torch.arange(self.window)
        mask = frame < self._length[files, None]
        rows = self._first[files, None] + frame.clamp(max=(self._length[files, None] - 1))
        values = {
            **{kind: _gather(x, rows) for kind, x in self._features.items()},
            **{
                kind: x.cut(files, start, self.window, None if random is None else random[kind])
                for kind, x in self._derived.items()
            },
            **{kind: index[files] for kind, index in self._categories.items()},
        }
        given = {kind: known[files] for kind, known in self._known.items()}
        latents = _gather(self._latents, rows)
        if self._transform_windows is not None:
            latents = self._transform_windows(latents)
        return Batch(latents, mask, Condition(values, given), files)

    def _lay_out(
        self,
        arrays: Sequence[np.ndarray],
        transform: Map,
        what: str,
        storage: RowStorage,
    ) -> Tensor:
        """Arrays [., T] transformed and laid end to end as rows [F, .]."""
        width = transform(_read(arrays[0], 0, 1)).shape[0]
        spills = storage.spills(self.frames, width)
        self._on_disk = self._on_disk or spills
        flat = torch.from_numpy(storage.allocate(self.frames, width, on_disk=spills))
        row = 0
        for key, array in zip(self.keys, arrays, strict=True):
            for start in range(0, array.shape[-1], BLOCK):
                _refuse_vanished(array, key)
                block = transform(_read(array, start, BLOCK)).T
                require_finite(block, what, key)
                flat[row : row + len(block)] = block
                row += len(block)
            _let_go(array)
        return flat


def _aligned_features(recording: Recording, kind: str, size: int) -> np.ndarray:
    """The features [K, T] of a kind; zeros, which take no memory, where the file has none."""
    features = recording.features.get(kind)
    if features is None:
        return np.broadcast_to(np.float32(0), (size, recording.frames))
    if features.shape[-1] != recording.frames:
        raise UserError(
            f"the {kind} features of {recording.key} do not fit its latents",
            why=f"it has {recording.frames} frames of latents but {features.shape[-1]} of features",
            do_this="encode the recordings with `latentdiff encode`, or train with "
            "condition.kinds=none.",
        )
    return features


def _categories(recordings: Sequence[Recording]) -> dict[str, Tensor]:
    """Kind -> [files] index of each file's category. UserError naming a file without one."""
    found = {}
    for kind in {kind: None for recording in recordings for kind in recording.categories}:
        missing = [each.key for each in recordings if kind not in each.categories]
        if missing:
            raise UserError(
                f"{missing[0]} has no {kind}, but other files have one",
                why=f"{len(missing)} of {len(recordings)} files have no {kind} that the model "
                "knows",
                do_this="put it into a folder named by its label, or list it in the file of "
                "condition.labels, and encode again; or remove it.",
            )
        found[kind] = torch.tensor([each.categories[kind] for each in recordings])
    return found


def require_finite(values: Tensor, what: str, key: str) -> None:
    """Raise UserError if the `what` of the file `key` hold NaN or infinite values."""
    if not torch.isfinite(values).all():
        raise UserError(
            f"the {what} of {key} hold NaN or infinite values",
            why="one such value would make all weights NaN",
            do_this="encode that file again, or remove it from the store's manifest.",
        )


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on every part, such as (run seed, step, purpose).

    A hash, so that seeds of neighbouring steps or runs have nothing in common.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator seeded by `parts` alone."""
    return torch.Generator(device).manual_seed(seed_of(*parts))


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [F, X] at index [B, W] as [B, X, W]."""
    index = index.to(rows.device)
    cut = rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[1])
    return cut.transpose(1, 2).contiguous()


def _read(array: np.ndarray, start: int, frames: int) -> Tensor:
    block = np.array(array[..., start : start + frames], dtype=np.float32)
    return torch.from_numpy(block)


def _refuse_vanished(array: np.ndarray, key: str) -> None:
    """Raise UserError if the file behind a map is gone or cut short.

    Reading past the end of a mapped file would kill the process without a message.
    """
    if not isinstance(array, np.memmap) or array.filename is None:
        return
    path = Path(array.filename)
    expected = int(array.offset) + array.nbytes
    size = path.stat().st_size if path.exists() else None
    if size is None or size < expected:
        raise UserError(
            f"the latents of {key} disappeared while they were read",
            why=f"{path} {'is gone' if size is None else 'was cut short'}",
            do_this="restore the latent store, or encode again; the same command continues.",
        )


def _let_go(array: np.ndarray) -> None:
    """Unload the pages of a map that has been read; until then they count as this process's."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def _room_on(device: torch.device) -> int:
    """Bytes of a GPU that latents may take: a fifth of what is free, the rest is for the model."""
    return torch.cuda.mem_get_info(device)[0] // 5
