"""Real clips: cut from the latents of recordings, decoded, and compared with samples.

Shapes: B clips, C latent channels, D latent dimensions, K condition features, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff import streaming
from latentdiff.audio import AudioError
from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.places import Places
from latentdiff.evaluation.reconstruction import excerpt
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.condition_inputs import as_condition, stored_input
from latentdiff.model.model import Model
from latentdiff.specs import Codec, Condition
from latentdiff.tracking import progress

CLIP_SECONDS = 3.0
"""Length of the clips that a diagnosis decodes: short, so that short files contribute too."""
NO_CODEC = "the sound was not scored: the codec is unknown (name it with --rave)"
FEWEST = 8
"""Clips per set; if the files hold fewer, the clips are made shorter."""


@dataclass(frozen=True)
class Place:
    """Position of a clip in a file."""

    entry: Entry
    start: int
    """First latent frame in the file."""


@dataclass(frozen=True)
class Clips:
    """Real clips of equal length."""

    places: list[Place]
    raw: Tensor
    """[B, D, T], raw latents of the codec."""
    final: Tensor
    """[B, C, T], whitened latents of the network."""

    def __len__(self) -> int:
        """B."""
        return len(self.places)

    @property
    def overlapping(self) -> Places:
        """Their places, to know which clips share sound."""
        return Places(
            files=tuple(place.entry.key for place in self.places),
            starts=tuple(place.start for place in self.places),
            frames=self.final.shape[-1],
        )


@dataclass(frozen=True)
class ClipSets:
    """Sets of real clips."""

    reference: Clips
    """Clips of training files."""
    other: Clips
    """As many clips of the same files, next to those of the reference. Where recordings are few,
    neighbours overlap by half."""
    held_out: Clips | None
    """At most as many clips of held-out files; None if no file is held out."""

    @property
    def frames(self) -> int:
        """T."""
        return self.reference.final.shape[-1]


def gather(model: Model, store: LatentStore, n: int, frames: int) -> ClipSets:
    """Read at most `n` clips per set, of at most `frames` frames, evenly spread over the files.

    Clips are made shorter if the training files would give fewer than FEWEST per set. Raises
    UserError if even the shortest are too few.
    """
    train = store.of("train")
    frames = shortened(train, frames, 2 * FEWEST)
    places = places_in(train, frames)
    if len(places) < 4:
        raise UserError(
            f"the training files of {store.root} are too short to compare samples with",
            why=f"they hold {len(places)} clips of {frames} frames, and at least 4 are needed",
            do_this="add recordings, then preprocess and encode again.",
        )
    held_out = _spread(store.of("validation"), frames, n)
    training = _spread(train, frames, 2 * n)

    def chosen(places: list[Place]) -> Clips:
        return read(model, store, places, frames)

    # Of two neighbours a coin decides: always the first would be, in files of two clips, always the
    # beginning of the piece.
    first = torch.rand(len(training) // 2, generator=torch.Generator().manual_seed(0)) < 0.5
    pairs = list(zip(training[0::2], training[1::2], first.tolist(), strict=False))
    return ClipSets(
        reference=chosen([a if is_first else b for a, b, is_first in pairs]),
        other=chosen([b if is_first else a for a, b, is_first in pairs]),
        held_out=chosen(held_out) if held_out else None,
    )


def _spread(entries: list[Entry], frames: int, most: int) -> list[Place]:
    """At most `most` places, those of clips that overlap by half if there are no others."""
    places = places_in(entries, frames)
    if len(places) < most:
        places = places_in(entries, frames, max(1, frames // 2))
    return [places[i] for i in windows.spread(len(places), most)]


def shortened(entries: list[Entry], frames: int, fewest: int) -> int:
    """`frames`, or fewer if the files would give less than `fewest` clips of that length."""
    lengths = [entry.frames for entry in entries]
    least = windows.OFFSETS[-1] // 2
    while len(windows.cut(lengths, frames)) < fewest and frames > least:
        frames = max(least, frames * 3 // 4)
    return frames


def places_in(entries: list[Entry], frames: int, every: int | None = None) -> list[Place]:
    """The places of clips of `frames`; `every`: frames from one to the next; None: edge to edge."""
    cut = windows.cut([entry.frames for entry in entries], frames, every)
    return [Place(entries[file], start) for file, start in cut]


def read(model: Model, store: LatentStore, places: list[Place], frames: int) -> Clips:
    """The clips at these places."""
    raw = read_raw(store, places, frames)
    return Clips(places, raw, model.whiten(raw))


def read_raw(store: LatentStore, places: list[Place], frames: int) -> Tensor:
    """The raw latents [B, D, T] of the clips at these places."""
    cut = [store.mean(p.entry)[:, p.start : p.start + frames] for p in places]
    return torch.from_numpy(np.stack(cut).astype(np.float32))


def conditions(model: Model, store: LatentStore, clips: Clips) -> Condition:
    """The conditions of the clips: features [B, K, T] and labels [B], as far as the model uses
    them."""
    frames = clips.final.shape[-1]
    return as_condition(
        [stored_input(model, store, place.entry, place.start, frames) for place in clips.places]
    )


def decode(
    codec: Codec, raw: Tensor, settings: LatentConfig, what: str
) -> list[NDArray[np.float32]]:
    """Decode raw latents [B, D, T] to sounds [channels, N]; `what` names them in the progress."""
    chunk, batch = settings.chunk_seconds, settings.batch
    with progress(raw.numpy(), unit="clip", what=f"decoding {what}") as clips:
        return [streaming.decode(codec, z, chunk_seconds=chunk, batch=batch) for z in clips]


def original(place: Place, frames: int, codec: Codec) -> NDArray[np.float32]:
    """The recording [channels, N] that a clip was encoded from.

    Raises AudioError if it cannot be read.
    """
    entry = place.entry
    if entry.source is None or entry.samples is None:
        raise AudioError(entry.key, "the latents do not name the recording they were made from")
    wanted = frames * codec.hop
    cut = excerpt(entry, codec, wanted, skip=place.start * codec.hop)
    # `encode` fills up the last frame of a file with silence.
    return np.pad(cut, ((0, 0), (0, wanted - cut.shape[1])))
