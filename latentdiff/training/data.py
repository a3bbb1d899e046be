"""Windows cut from files, to train and validate on.

Shapes: B batch, C latent channels, D latent dimensions, F frames of all files together, K condition
features, T frames of a file, W frames of a window.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.specs import Condition

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
    features: np.ndarray | None = None
    """[K, T], raw, aligned with the latents; None = not conditioned on features."""
    label: int | None = None
    """Index into the label names; None = not conditioned on a label."""

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
    """Features [B, K, W], standardised, and labels [B]."""
    files: Tensor
    """[B] index into `Windows.keys`."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = Condition(*(None if x is None else x.to(device) for x in self.condition))
        return Batch(self.latents.to(device), self.mask.to(device), moved, self.files)

    def pick(self, index: Tensor | slice) -> Batch:
        """The windows at `index` along B."""
        chosen = Condition(*(None if x is None else x[index] for x in self.condition))
        return Batch(self.latents[index], self.mask[index], chosen, self.files[index])


class Windows:
    """All files of one split, whitened once and laid end to end, and the windows in them.

    `whiten` maps raw latents [D, t] to final ones [C, t], `standardise` raw features [K, t] to
    those the network gets, `transform_windows` final windows [B, C, W] to those it gets (None:
    unchanged). Frames are held in memory if they take at most `memory_gb`, and otherwise in an
    unnamed scratch file under `scratch` that vanishes with the process.

    Raises UserError naming the file if its latents or features are not finite, or not aligned.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        window: int,
        *,
        whiten: Map,
        standardise: Map | None = None,
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
        self._latents = self._lay_out(arrays, whiten, "latents", memory_gb, scratch)
        self._features: Tensor | None = None
        if standardise is not None:
            features = [self._aligned_features(recording) for recording in recordings]
            self._features = self._lay_out(features, standardise, "features", memory_gb, scratch)
        self._labels = _labels(recordings)

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
        return self._cut(torch.randint(self.count, (batch,), generator=generator)[part])

    def to(self, device: torch.device) -> Windows:
        """The same windows, cut on `device` if the frames are in memory and fit there easily."""
        size = self._latents.nbytes + (0 if self._features is None else self._features.nbytes)
        if device.type != "cuda" or self._on_disk or size > _room_on(device):
            return self
        other = copy.copy(self)
        other._latents = self._latents.to(device)
        other._features = None if self._features is None else self._features.to(device)
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

    def _cut(self, places: Tensor) -> Batch:
        """The windows at `places` in 0..count - 1, gathered by one index without a loop."""
        files = torch.searchsorted(self._positions, places, right=True)
        start = places - self._positions_before()[files]
        frame = start[:, None] + torch.arange(self.window)
        mask = frame < self._length[files, None]
        rows = self._first[files, None] + frame.clamp(max=(self._length[files, None] - 1))
        features = None if self._features is None else _gather(self._features, rows)
        label = None if self._labels is None else self._labels[files]
        latents = _gather(self._latents, rows)
        if self._transform_windows is not None:
            latents = self._transform_windows(latents)
        return Batch(latents, mask, Condition(features, label), files)

    def _aligned_features(self, recording: Recording) -> np.ndarray:
        features = recording.features
        if features is None or features.shape[-1] != recording.frames:
            feature_frames = "none" if features is None else f"{features.shape[-1]}"
            raise UserError(
                f"the condition features of {recording.key} do not fit its latents",
                why=f"it has {recording.frames} frames of latents but {feature_frames} of features",
                do_this="encode the recordings with `latentdiff encode`, or train with "
                "condition.kind=none.",
            )
        return features

    def _lay_out(
        self,
        arrays: Sequence[np.ndarray],
        transform: Map,
        what: str,
        memory_gb: float,
        scratch: Path | None,
    ) -> Tensor:
        """Arrays [., T] transformed and laid end to end as rows [F, .]."""
        width = transform(_read(arrays[0], 0, 1)).shape[0]
        self._on_disk = self._on_disk or _spills(self.frames, width, memory_gb, scratch)
        flat = _allocate(self.frames, width, memory_gb, scratch)
        row = 0
        for key, array in zip(self.keys, arrays, strict=True):
            for start in range(0, array.shape[-1], BLOCK):
                _refuse_vanished(array, key)
                block = transform(_read(array, start, BLOCK)).T
                if not torch.isfinite(block).all():
                    raise UserError(
                        f"the {what} of {key} hold NaN or infinite values",
                        why="one such value would make all weights NaN",
                        do_this="encode that file again, or remove it from the store's manifest.",
                    )
                flat[row : row + len(block)] = block
                row += len(block)
            _let_go(array)
        return flat


def _labels(recordings: Sequence[Recording]) -> Tensor | None:
    """[files] label of each file, or None if none has one. UserError naming a file without."""
    labels = [recording.label for recording in recordings if recording.label is not None]
    if not labels:
        return None
    missing = [recording.key for recording in recordings if recording.label is None]
    if missing:
        raise UserError(
            f"{missing[0]} has no label, but other files have one",
            why=f"{len(missing)} of {len(recordings)} files have no label that the model knows",
            do_this="put it into a folder named by its label, or list it in the file of "
            "condition.labels, and encode again; or remove it.",
        )
    return torch.tensor(labels)


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


def _spills(frames: int, width: int, memory_gb: float, scratch: Path | None) -> bool:
    """Whether rows [`frames`, `width`] are held on disk."""
    return scratch is not None and frames * width * 4 > memory_gb * 1e9


def _allocate(frames: int, width: int, memory_gb: float, scratch: Path | None) -> Tensor:
    size = frames * width * 4
    if scratch is None or not _spills(frames, width, memory_gb, scratch):
        return torch.empty(frames, width)
    # Writing to a map on a full disk kills the process (SIGBUS), so check first.
    if runs.free_bytes(scratch) < size:
        raise UserError(
            f"{scratch} has no room for {size / 1e9:.1f} GB of whitened latents",
            why=f"{runs.free_bytes(scratch) / 1e9:.1f} GB are free",
            do_this="free some space, or raise training.memory_gb to hold them in memory.",
        )
    # Unnamed: the map keeps it alive, and nothing is left behind even if the process is killed.
    with tempfile.TemporaryFile(dir=scratch) as handle:
        return torch.from_numpy(np.memmap(handle, np.float32, "w+", shape=(frames, width)))
