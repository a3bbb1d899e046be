"""The clips that `evaluate` compares: real ones, samples, and what both sound like.

Shapes: B clips, C latent channels, D latent dimensions, K condition features, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio as sound
from latentdiff import streaming
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
"""Clips of a set below which they are made shorter instead."""


@dataclass(frozen=True)
class Place:
    """Where a clip lies."""

    entry: Entry
    start: int
    """Frame of the file."""


@dataclass(frozen=True)
class Clips:
    """Real clips of one length."""

    places: list[Place]
    raw: Tensor
    """[B, D, T]."""
    final: Tensor
    """[B, C, T]."""


@dataclass(frozen=True)
class ClipSets:
    """Real clips, none in two sets."""

    reference: Clips
    other: Clips
    """As many, lying between those of the reference."""
    held_out: Clips | None
    """At most as many; None where no file is held out."""

    @property
    def frames(self) -> int:
        """T."""
        return self.reference.final.shape[-1]


def gather(model: Model, store: LatentStore, n: int, frames: int) -> ClipSets:
    """At most `n` clips a set, evenly spread over the files, of at most `frames` frames.

    Clips are made shorter where the training files would give fewer than FEWEST a set. Raises
    UserError where even the shortest are too few.
    """
    train = store.of("train")
    frames = shortened(train, frames, 2 * FEWEST)
    places = places_in(train, frames)
    if len(places) < 4:
        raise UserError(
            f"the training files of {store.root} are too short to compare anything with",
            why=f"they hold {len(places)} clips of {frames} frames, 4 are the least",
            do_this="add recordings, then preprocess and encode again.",
        )
    count = min(n, len(places) // 2)
    unheard = places_in(store.of("validation"), frames)

    def spread(chosen: list[Place]) -> Clips:
        return read(model, store, [chosen[i] for i in windows.spread(len(chosen), count)], frames)

    return ClipSets(
        reference=spread(places[0::2]),
        other=spread(places[1::2]),
        held_out=spread(unheard) if unheard else None,
    )


def shortened(entries: list[Entry], frames: int, fewest: int) -> int:
    """`frames`, or fewer where the files would give less than `fewest` clips of so many."""
    lengths = [entry.frames for entry in entries]
    least = windows.OFFSETS[-1] // 2
    while len(windows.cut(lengths, frames)) < fewest and frames > least:
        frames = max(least, frames * 3 // 4)
    return frames


def places_in(entries: list[Entry], frames: int) -> list[Place]:
    """Of clips of `frames` laid edge to edge in the files."""
    cut = windows.cut([entry.frames for entry in entries], frames)
    return [Place(entries[file], start) for file, start in cut]


def read(model: Model, store: LatentStore, places: list[Place], frames: int) -> Clips:
    """The clips at these places."""
    raw = read_raw(store, places, frames)
    return Clips(places, raw, model.whiten(raw))


def read_raw(store: LatentStore, places: list[Place], frames: int) -> Tensor:
    """[B, D, T] of the clips at these places."""
    cut = [store.mean(p.entry)[:, p.start : p.start + frames] for p in places]
    return torch.from_numpy(np.stack(cut).astype(np.float32))


def conditions(model: Model, store: LatentStore, clips: Clips) -> Condition:
    """What the model follows in these clips: features [B, K, T] and labels [B]."""
    frames = clips.final.shape[-1]
    return as_condition(
        [stored_input(model, store, place.entry, place.start, frames) for place in clips.places]
    )


def decode(codec: Codec, raw: Tensor, settings: LatentConfig, what: str) -> list[np.ndarray]:
    """Latents [B, D, T] as sounds [channels, N]."""
    options = {"chunk_seconds": settings.chunk_seconds, "batch": settings.batch}
    with progress(raw.numpy(), unit="clip", what=f"decoding {what}") as clips:
        return [streaming.decode(codec, z, **options) for z in clips]


def original(place: Place, frames: int, codec: Codec) -> np.ndarray:
    """The recording [channels, N] that a clip was made of. AudioError where it cannot be read."""
    entry = place.entry
    if entry.source is None or entry.samples is None:
        raise sound.AudioError(entry.key, "the latents do not say where its recording lies")
    wanted = frames * codec.hop
    cut = excerpt(entry, codec, wanted, skip=place.start * codec.hop)
    # The last frame of a file is filled up with silence.
    return np.pad(cut, ((0, 0), (0, wanted - cut.shape[1])))
