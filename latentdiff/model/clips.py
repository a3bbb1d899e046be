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
from latentdiff.evaluation.reconstruction import excerpt
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.condition_inputs import as_condition, stored_input
from latentdiff.model.model import Model
from latentdiff.specs import Codec, Condition
from latentdiff.tracking import progress

CLIP_SECONDS = 3.0
"""Default length of a real clip: short, so that short files contribute too."""
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


@dataclass(frozen=True)
class ClipSets:
    """Sets of real clips that do not overlap."""

    reference: Clips
    """Clips of training files."""
    other: Clips
    """As many clips of the same files, cut between the reference clips."""
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
    count = min(n, len(places) // 2)
    held_out = places_in(store.of("validation"), frames)

    def spread(chosen: list[Place]) -> Clips:
        return read(model, store, [chosen[i] for i in windows.spread(len(chosen), count)], frames)

    return ClipSets(
        reference=spread(places[0::2]),
        other=spread(places[1::2]),
        held_out=spread(held_out) if held_out else None,
    )


def shortened(entries: list[Entry], frames: int, fewest: int) -> int:
    """`frames`, or fewer if the files would give less than `fewest` clips of that length."""
    lengths = [entry.frames for entry in entries]
    least = windows.OFFSETS[-1] // 2
    while len(windows.cut(lengths, frames)) < fewest and frames > least:
        frames = max(least, frames * 3 // 4)
    return frames


def places_in(entries: list[Entry], frames: int) -> list[Place]:
    """The places of clips of `frames`, laid edge to edge in the files."""
    cut = windows.cut([entry.frames for entry in entries], frames)
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
