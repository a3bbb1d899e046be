"""The clips that `evaluate` compares: real ones, samples, and what both sound like.

Shapes: B clips, C latent channels, D latent dimensions, K condition features, N audio samples, T
frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio as sound
from latentdiff import streaming
from latentdiff.commands.sample import Counted
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.reconstruction import excerpt
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.model import Model
from latentdiff.notebook.experiments import data, sampling
from latentdiff.specs import Codec, Condition
from latentdiff.tracking import progress
from latentdiff.training.data import Recording, Windows

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
    return Clips(places, raw, whiten(model, raw))


def read_raw(store: LatentStore, places: list[Place], frames: int) -> Tensor:
    """[B, D, T] of the clips at these places."""
    cut = [store.mean(p.entry)[:, p.start : p.start + frames] for p in places]
    return torch.from_numpy(np.stack(cut).astype(np.float32))


def whiten(model: Model, raw: Tensor) -> Tensor:
    """Raw latents [..., D, T] => final latents [..., C, T], on the CPU."""
    device = model.whitening.mean.device
    return model.whitening.whiten(raw.to(device)).cpu()


def _recording(model: Model, store: LatentStore, entry: Entry) -> Recording:
    features = None if model.standardiser is None else store.mel(entry)
    if model.standardiser is not None and features is None:
        raise UserError(
            f"there is no mel spectrogram of {entry.key} in {store.root}",
            why="the model follows one, and the latents were encoded without",
            do_this="encode the recordings with `latentdiff encode`.",
        )
    label = model.labels.index(entry.label) if entry.label in model.labels else None
    latents = data.latents(model.experiment, entry.key, store.mean(entry), store.std(entry))
    return Recording(entry.key, latents, features, label)


def windows_of(
    model: Model, store: LatentStore, split: str, memory_gb: float, scratch: Path
) -> Windows | None:
    """The windows of a split as training cut them; None where it has no files."""
    standardiser, standardise = model.standardiser, None
    files = [_recording(model, store, entry) for entry in store.of(split)]
    if not files:
        return None
    if standardiser is not None:
        standardise = lambda f: torch.from_numpy(standardiser(f.numpy()))  # noqa: E731
    return Windows(
        files,
        model.window,
        whiten=lambda z: whiten(model, z),
        standardise=standardise,
        of_window=data.of_window(model.experiment),
        memory_gb=memory_gb,
        scratch=scratch,
    )


def conditions(model: Model, store: LatentStore, clips: Clips) -> Condition:
    """What the model is told of these clips: features [B, K, T] and labels [B]."""
    features, labels = [], []
    frames = clips.final.shape[-1]
    for place in clips.places:
        recording = _recording(model, store, place.entry)
        if model.standardiser is not None and recording.features is not None:
            cut = recording.features[:, place.start : place.start + frames]
            features.append(torch.from_numpy(model.standardiser(np.asarray(cut))))
        if recording.label is not None:
            labels.append(recording.label)
    return Condition(
        torch.stack(features) if features else None, torch.tensor(labels) if labels else None
    )


def draw(
    model: Model, settings: SamplingConfig, seeds: list[int], frames: int, condition: Condition
) -> tuple[Tensor, int]:
    """Final latents [B, C, T], one for each seed, and network calls a sample.

    The conditions are taken in turn, from the first again where there are fewer than seeds.
    """
    device = next(model.denoiser.parameters()).device
    experiment, settings = model.experiment, model.draws(settings)
    parts, counted = [], Counted(sampling.as_sampled(experiment, model.denoiser, settings.steps))
    batches = range(0, len(seeds), settings.batch)
    with progress(total=len(seeds), unit="sample", what=f"sampling, {settings.steps} steps") as bar:
        for start in batches:
            part = seeds[start : start + settings.batch]
            told = Condition(*(_in_turn(x, start, len(part), device) for x in condition))
            x = sampling.sample(
                experiment,
                counted,
                model.schedule,
                settings,
                part,
                model.whitening.channels,
                frames,
                told,
                device,
                variance=model.whitening.variance,
            )
            parts.append(x.float().cpu())
            bar.update(len(part))
    drawn = torch.cat(parts)
    if not torch.isfinite(drawn).all():
        raise UserError(
            "the samples hold NaN or infinite values",
            why=f"of {model.path}, with {settings.sampler} and guidance {settings.guidance:g}",
            do_this="lower sampling.guidance, raise sampling.steps, or train longer.",
        )
    return drawn, counted.calls // len(batches)


def _in_turn(x: Tensor | None, start: int, count: int, device: torch.device) -> Tensor | None:
    return None if x is None else x[torch.arange(start, start + count) % len(x)].to(device)


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
