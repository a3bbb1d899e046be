"""`diagnose noise-ladder`: how much noise on latents the decoder bears before the sound breaks.

Shapes: B clips, C kept directions, D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff import audio as sound
from latentdiff.diagnose.listening import KEPT, distance_of, level_of, wavs
from latentdiff.diagnose.noise_ladder import picture as ladder_pictures
from latentdiff.diagnose.noise_ladder.report import text
from latentdiff.diagnose.report import Report, run_question
from latentdiff.errors import UserError
from latentdiff.evaluation import windows
from latentdiff.evaluation.tolerance import RUNGS, tolerance
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model import clips as material
from latentdiff.model.clips import CLIP_SECONDS, Place
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path, open_codec
from latentdiff.runs import Input, Run
from latentdiff.specs import Codec
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device

NAME = "noise-ladder"
LEFT_OUT_RUNGS = (0.3, 1.0, 2.0, 3.0)
"""k along directions that are left out, in unit deviations: an exported RAVE puts 1 there."""


@dataclass
class Ladder:
    """What is decoded, and what came of it."""

    codec: Codec
    whitening: Whitening
    places: list[Place]
    raw: Tensor
    """[B, D, T], as encoded."""
    project: Project
    unnoised: list[np.ndarray] = field(default_factory=list)
    """The clips [channels, N] of the kept directions without noise: all distances are to these."""
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """A few of each set, to listen to."""

    @property
    def final(self) -> Tensor:
        """[B, C, T]."""
        return self.whitening.whiten(self.raw)

    @property
    def frames(self) -> int:
        """T."""
        return self.raw.shape[-1]

    def noise(self, shape: torch.Size, what: str) -> Tensor:
        """Unit noise; the same for every rung."""
        return torch.randn(shape, generator=self.seeded(what))

    def seeded(self, what: str) -> torch.Generator:
        """What it draws depends on the seed and on `what`."""
        return generator_for(self.project.seed, "noise-ladder", what)

    def decode(self, name: str, raw: Tensor) -> list[np.ndarray]:
        """Sounds [channels, N] of raw latents; a few are kept under `name`."""
        clips = material.decode(self.codec, raw, self.project.latents, name)
        self.kept[name] = clips[:KEPT]
        return clips

    def hear(self, name: str, raw: Tensor) -> dict[str, Any]:
        """Level, and distance to the clips without noise, of latents [B or 1, D, T]."""
        return self.compare(self.decode(name, raw))

    def compare(self, clips: list[np.ndarray]) -> dict[str, Any]:
        """Of sounds, one for each clip or one for all."""
        each = clips if len(clips) > 1 else clips * len(self.unnoised)
        return {"level_db": level_of(clips), "distance_db": distance_of(each, self.unnoised)}


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
    """Decode `n` clips with noise on their latents, rung by rung, and other latents beside them.

    Returns what could not be measured. Raises UserError where latents or codec are missing.
    """
    path = latents_path(run, latents, run.diffusion)
    store = LatentStore.open(path)
    codec = open_codec(run, store, rave, ckpt, pick_device(project.device))
    if codec is None:
        raise UserError(
            f"nobody can say which codec the latents in {path} are of",
            do_this="name it with --rave.",
        )
    chosen = {"keep": project.latents.keep, "scaling": project.latents.scaling}
    losses: list[str] = []
    run_question(
        NAME,
        dict,
        lambda: _report(_climb(store, codec, project, n, seconds), losses),
        run.diagnosis / NAME,
        settings={"latents": chosen, "seed": project.seed, "n": n, "seconds": seconds},
        inputs={
            "latents": Input(str(path.resolve()), store.fingerprint()),
            "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        },
        seed=project.seed,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return losses


def _climb(store: LatentStore, codec: Codec, project: Project, n: int, seconds: float) -> Ladder:
    """The ladder before its first rung: clips of held-out files, or of the others."""
    entries = store.of("validation") or store.of("train")
    wanted = max(1, round(seconds * codec.sample_rate / codec.hop))
    frames = material.shortened(entries, wanted, min(n, material.FEWEST))
    places = material.places_in(entries, frames)
    if not places:
        raise UserError(
            f"the files of {store.root} are too short to decode anything",
            why=f"none holds {frames} frames",
            do_this="add recordings, then preprocess and encode again.",
        )
    places = [places[k] for k in windows.spread(len(places), n)]
    chosen = project.latents
    whitening = Whitening.from_statistics(store.statistics(), chosen.keep, chosen.scaling)
    return Ladder(codec, whitening, places, material.read_raw(store, places, frames), project)


def _report(ladder: Ladder, losses: list[str]) -> Report[dict[str, Any]]:
    results = _results(ladder, losses)
    files = {
        f"{NAME}.png": lambda path: ladder_pictures.ladder(path, results),
        **wavs(ladder.kept, ladder.codec.sample_rate),
    }
    return Report(results, text(results), files)


def _results(ladder: Ladder, losses: list[str]) -> dict[str, Any]:
    """As the JSON file holds them."""
    whitening, held = ladder.whitening, ladder.places[0].entry.split == "validation"
    ladder.unnoised = ladder.decode("kept directions", whitening.unwhiten(ladder.final))
    encoded = _encoded(ladder, losses)
    others = _others(ladder)
    rungs = [{"k": k, **ladder.hear(f"k {k:g}", raw)} for k, raw in _rungs(ladder)]
    found = tolerance(
        RUNGS,
        [rung["distance_db"] for rung in rungs],
        others["white noise"]["distance_db"],
        encoded["codec_db"],
    )
    left = [{"k": k, **ladder.hear(f"left out {k:g}", raw)} for k, raw in _left_out_rungs(ladder)]
    return {
        "tolerance_std": _rounded(found.std),
        "tolerance_logsnr": _rounded(found.logsnr),
        "criterion": found.criterion,
        "limit_db": round(found.limit, 4),
        "clips": len(ladder.places),
        "held_out": held,
        "clip_seconds": round(ladder.frames * ladder.codec.hop / ladder.codec.sample_rate, 3),
        "kept": whitening.channels,
        "dimensions": whitening.dimensions,
        **encoded,
        "unnoised_db": level_of(ladder.unnoised),
        "rungs": rungs,
        "left_out_rungs": left,
        "others": others,
    }


def _encoded(ladder: Ladder, losses: list[str]) -> dict[str, Any]:
    """The recordings and what the codec makes of them, with all directions and with some."""
    whole = ladder.decode("all directions", ladder.raw)
    found = {
        "all_directions": ladder.compare(whole),
        "recordings_db": None,
        "codec_db": None,
        "kept_codec_db": None,
    }
    try:
        truth = [material.original(p, ladder.frames, ladder.codec) for p in ladder.places]
    except sound.AudioError as error:
        losses.append(f"the codec's own error was not measured: {error}")
        return found
    return found | {
        "recordings_db": level_of(truth),
        "codec_db": distance_of(whole, truth),
        "kept_codec_db": distance_of(ladder.unnoised, truth),
    }


def _rungs(ladder: Ladder) -> Iterator[tuple[float, Tensor]]:
    """k and raw latents: the same noise, more and more of it."""
    x = ladder.final
    noise = ladder.noise(x.shape, "kept")
    for k in RUNGS:
        yield k, ladder.whitening.unwhiten(x + k * noise)


def _left_out_rungs(ladder: Ladder) -> Iterator[tuple[float, Tensor]]:
    """The same along the directions that the model does not see; none where it sees all."""
    whitening, x = ladder.whitening, ladder.final
    if whitening.channels == whitening.dimensions:
        return
    clean = whitening.unwhiten(x)
    noise = whitening.unwhiten(x, "noise", ladder.seeded("left out")) - clean
    for k in LEFT_OUT_RUNGS:
        yield k, clean + k * noise


def _others(ladder: Ladder) -> dict[str, dict[str, Any]]:
    """Latents that are no encoding of anything."""
    x, unwhiten = ladder.final, ladder.whitening.unwhiten
    deviation = ladder.whitening.variance.sqrt()[:, None]
    rows = {
        "white noise": unwhiten(deviation * ladder.noise(x.shape, "white noise")),
        "unit noise": ladder.noise(ladder.raw.shape, "unit noise"),
        "mean": unwhiten(torch.zeros_like(x[:1])),
        "zeros": torch.zeros_like(ladder.raw[:1]),
        "frames shuffled": unwhiten(windows.shuffled(x, ladder.seeded("shuffled"))),
    }
    found = {name: ladder.hear(name, raw) for name, raw in rows.items()}
    if len(x) > 1:
        found["mean of all"] = _mixed(ladder, "mean of all", x.mean(dim=0)[None])
        found["half-way"] = _mixed(ladder, "half-way", 0.5 * (x + x.roll(1, dims=0)))
    return found


def _mixed(ladder: Ladder, name: str, x: Tensor) -> dict[str, Any]:
    """Mixed latents [B or 1, C, T], beside the mix of the sounds that they are mixed of."""
    sounds = np.stack(ladder.unnoised)
    neighbours = 0.5 * (sounds + np.roll(sounds, 1, axis=0))
    mix = sounds.mean(axis=0)[None] if len(x) == 1 else neighbours
    clips = ladder.decode(name, ladder.whitening.unwhiten(x))
    return {**ladder.compare(clips), "to_mix_db": distance_of(clips, list(mix))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
