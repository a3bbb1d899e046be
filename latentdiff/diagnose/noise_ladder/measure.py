"""Measure for `diagnose noise-ladder`: how much noise on its latents the decoder tolerates.

Shapes: B clips, C kept directions, D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.audio import AudioError
from latentdiff.diagnose.listening import KEPT, distance_of, level_of, wavs
from latentdiff.diagnose.noise_ladder import picture
from latentdiff.diagnose.noise_ladder.report import text
from latentdiff.diagnose.noise_ladder.results import (
    DecodedSet,
    NoiseLadderResults,
    OtherLatents,
    Rung,
)
from latentdiff.diagnose.report import Report, run_question
from latentdiff.errors import UserError
from latentdiff.evaluation import controls, windows
from latentdiff.evaluation.tolerance import NOISE_LADDER, RUNGS, tolerance
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model import clips
from latentdiff.model.clips import CLIP_SECONDS, Place
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_codec, open_latents
from latentdiff.runs import Input, Run
from latentdiff.specs import Codec
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device

NAME = NOISE_LADDER
LEFT_OUT_RUNGS = (0.3, 1.0, 2.0, 3.0)
"""k along the directions left out, in unit deviations: an exported RAVE puts noise of 1 there."""


@dataclass
class ClipDecoder:
    """Clips of a store, decoded with changed latents; keeps a few sounds of each set."""

    codec: Codec
    whitening: Whitening
    places: list[Place]
    raw: Tensor
    """[B, D, T], as encoded."""
    project: Project
    sounds: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    """The first KEPT sounds [channels, N] of each set, to listen to."""

    @property
    def final(self) -> Tensor:
        """[B, C, T], whitened latents of the clips."""
        return self.whitening.whiten(self.raw)

    @property
    def frames(self) -> int:
        """T."""
        return self.raw.shape[-1]

    @cached_property
    def unnoised(self) -> list[NDArray[np.float32]]:
        """The clips [channels, N] without noise, kept directions only: the reference."""
        return self.decode("kept directions", self.whitening.unwhiten(self.final))

    def noise(self, shape: torch.Size, purpose: str) -> Tensor:
        """Unit noise of this shape; the same at each call for one purpose."""
        return torch.randn(shape, generator=self.generator(purpose))

    def generator(self, purpose: str) -> torch.Generator:
        """Seeded by the project's seed and `purpose`."""
        return generator_for(self.project.seed, NAME, purpose)

    def decode(self, name: str, raw: Tensor) -> list[NDArray[np.float32]]:
        """Sounds [channels, N] of raw latents [B or 1, D, T]; the first are kept as `name`."""
        decoded = clips.decode(self.codec, raw, self.project.latents, name)
        self.sounds[name] = decoded[:KEPT]
        return decoded

    def measure(self, name: str, raw: Tensor) -> DecodedSet:
        """Raw latents [B or 1, D, T] decoded, and compared with the clips without noise."""
        decoded = self.decode(name, raw)
        return DecodedSet(level_of(decoded), self.from_unnoised(decoded))

    def from_unnoised(self, decoded: list[NDArray[np.float32]]) -> float:
        """Distance of sounds, one for each clip or one for all, from the clips without noise."""
        each = decoded if len(decoded) > 1 else decoded * len(self.unnoised)
        return distance_of(each, self.unnoised)


def diagnose_noise_ladder(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    rave: Path | None = None,
    ckpt: str | None = None,
    n: int = 8,
    seconds: float = CLIP_SECONDS,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Decode `n` clips with more and more noise on their latents, and other latents to compare.

    Returns the measurements skipped, with reasons. Raises UserError if latents or codec are
    missing.
    """
    store = open_latents(run, latents, run.diffusion)
    codec = open_codec(run, store, rave, ckpt, pick_device(project.device))
    if codec is None:
        raise UserError(
            f"the codec of the latents in {store.root} is unknown", do_this="name it with --rave."
        )
    chosen = {"keep": project.latents.keep, "scaling": project.latents.scaling}
    skipped: list[str] = []
    run_question(
        NAME,
        NoiseLadderResults,
        lambda: _report(_open(store, codec, project, n, seconds), skipped),
        run.diagnosis / NAME,
        settings={"latents": chosen, "seed": project.seed, "n": n, "seconds": seconds},
        inputs={
            "latents": Input(str(store.root.resolve()), store.fingerprint()),
            "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        },
        seed=project.seed,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return skipped


def _open(
    store: LatentStore, codec: Codec, project: Project, n: int, seconds: float
) -> ClipDecoder:
    """Clips of held-out files, or of training files if none are held out."""
    entries = store.of("validation") or store.of("train")
    wanted = max(1, round(seconds * codec.sample_rate / codec.hop))
    frames = clips.shortened(entries, wanted, min(n, clips.FEWEST))
    places = clips.places_in(entries, frames)
    if not places:
        raise UserError(
            f"the files of {store.root} are too short to decode",
            why=f"none has {frames} frames",
            do_this="add longer recordings, then preprocess and encode again.",
        )
    places = [places[k] for k in windows.spread(len(places), n)]
    chosen = project.latents
    whitening = Whitening.from_statistics(store.statistics(), chosen.keep, chosen.scaling)
    return ClipDecoder(codec, whitening, places, clips.read_raw(store, places, frames), project)


def _report(decoder: ClipDecoder, skipped: list[str]) -> Report[NoiseLadderResults]:
    results = _results(decoder, skipped)
    files = {
        f"{NAME}.png": lambda path: picture.ladder(path, results),
        **wavs(decoder.sounds, decoder.codec.sample_rate),
    }
    return Report(results, text(results), files)


def _results(decoder: ClipDecoder, skipped: list[str]) -> NoiseLadderResults:
    codec, whitening = decoder.codec, decoder.whitening
    everything = decoder.decode("all directions", decoder.raw)
    recordings_db, codec_db, kept_codec_db = _beside_recordings(decoder, everything, skipped)
    others = dict(_others(decoder))
    rungs = list(_rungs(decoder))
    limit = tolerance(
        RUNGS,
        [rung.distance_db for rung in rungs],
        others["white noise"].distance_db,
        codec_db,
    )
    return NoiseLadderResults(
        tolerance_std=_rounded(limit.std),
        tolerance_logsnr=_rounded(limit.logsnr),
        kept=whitening.channels,
        dimensions=whitening.dimensions,
        criterion=limit.criterion,
        limit_db=round(limit.limit, 4),
        clips=len(decoder.places),
        held_out=decoder.places[0].entry.split == "validation",
        clip_seconds=round(decoder.frames * codec.hop / codec.sample_rate, 3),
        all_directions=DecodedSet(level_of(everything), decoder.from_unnoised(everything)),
        recordings_db=recordings_db,
        codec_db=codec_db,
        kept_codec_db=kept_codec_db,
        unnoised_db=level_of(decoder.unnoised),
        rungs=rungs,
        left_out_rungs=list(_left_out_rungs(decoder)),
        others=others,
    )


def _beside_recordings(
    decoder: ClipDecoder, everything: list[NDArray[np.float32]], skipped: list[str]
) -> tuple[float | None, float | None, float | None]:
    """Level of the recordings, and distances to them with all and with the kept directions."""
    try:
        recordings = [clips.original(p, decoder.frames, decoder.codec) for p in decoder.places]
    except AudioError as error:
        skipped.append(f"the codec's own error was not measured: {error}")
        return None, None, None
    return (
        level_of(recordings),
        distance_of(everything, recordings),
        distance_of(decoder.unnoised, recordings),
    )


def _rungs(decoder: ClipDecoder) -> Iterator[Rung]:
    """The same noise, more and more of it, along the kept directions."""
    x = decoder.final
    noise = decoder.noise(x.shape, "kept")
    for k in RUNGS:
        decoded = decoder.measure(f"k {k:g}", decoder.whitening.unwhiten(x + k * noise))
        yield Rung(decoded.level_db, decoded.distance_db, k)


def _left_out_rungs(decoder: ClipDecoder) -> Iterator[Rung]:
    """Noise along the directions that the model does not use; none if it uses all."""
    whitening, x = decoder.whitening, decoder.final
    if whitening.channels == whitening.dimensions:
        return
    clean = whitening.unwhiten(x)
    noise = whitening.unwhiten(x, "noise", decoder.generator("left out")) - clean
    for k in LEFT_OUT_RUNGS:
        decoded = decoder.measure(f"left out {k:g}", clean + k * noise)
        yield Rung(decoded.level_db, decoded.distance_db, k)


def _others(decoder: ClipDecoder) -> Iterator[tuple[str, OtherLatents]]:
    """Latents that encode no sound, by name."""
    x, unwhiten = decoder.final, decoder.whitening.unwhiten
    std = decoder.whitening.variance.sqrt()[:, None]
    unmixed = {
        "white noise": unwhiten(std * decoder.noise(x.shape, "white noise")),
        "unit noise": decoder.noise(decoder.raw.shape, "unit noise"),
        "mean": unwhiten(torch.zeros_like(x[:1])),
        "zeros": torch.zeros_like(decoder.raw[:1]),
        "frames shuffled": unwhiten(controls.shuffled_blocks(x, 1, decoder.generator("shuffled"))),
    }
    for name, raw in unmixed.items():
        decoded = decoder.measure(name, raw)
        yield name, OtherLatents(decoded.level_db, decoded.distance_db)
    if len(x) > 1:
        yield "mean of all", _mixed(decoder, "mean of all", x.mean(dim=0)[None])
        yield "half-way", _mixed(decoder, "half-way", 0.5 * (x + x.roll(1, dims=0)))


def _mixed(decoder: ClipDecoder, name: str, x: Tensor) -> OtherLatents:
    """Mixed latents [B or 1, C, T], also compared with the mix of their sounds."""
    sounds = np.stack(decoder.unnoised)
    neighbours = 0.5 * (sounds + np.roll(sounds, 1, axis=0))
    mix = sounds.mean(axis=0)[None] if len(x) == 1 else neighbours
    decoded = decoder.decode(name, decoder.whitening.unwhiten(x))
    return OtherLatents(
        level_of(decoded), decoder.from_unnoised(decoded), distance_of(decoded, list(mix))
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
