"""Comparable measures for models that normalise the same latents differently.

A model sees raw latents through a linear map, and its noise is white there. Along each principal
direction of the training latents that is unit variance in noise of some log-SNR of its own: where
the map leaves a direction `gain` times its unit deviation, the model's level plus 2 ln(gain). So
each direction's error is measured at many of the model's own levels and read off where that
direction has the log-SNR asked for (matched skill: the kept directions, evenly over our levels).
Directions stronger than the one read are then cleaner than a model on whitened latents has them,
weaker ones noisier. Its own skill is of its own loss, over its own levels and all that it sees.

Shapes: B windows, C principal directions, D latent dimensions, E channels that the model sees, L
levels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff.evaluation import controls, sets
from latentdiff.evaluation.heard import Heard, hear
from latentdiff.evaluation.scores import FormScores
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.clips import decode, gather
from latentdiff.model.evaluate import form
from latentdiff.model.evaluate.inputs import Comparison
from latentdiff.model.evaluate.latents import LatentSet
from latentdiff.rave.codec import RaveCodec
from latentdiff.training.data import generator_for

Estimate = Callable[[Tensor, float], Tensor]
"""Noisy [B, E, T] at a log-SNR -> clean [B, E, T]."""


@dataclass(frozen=True)
class Space:
    """The normalisation of latents that a model uses."""

    to_model: Callable[[Tensor], Tensor]
    """Raw [B, D, T] -> [B, E, T]."""
    to_raw: Callable[[Tensor], Tensor]
    along: Callable[[Tensor], Tensor]
    """A difference [B, E, T] -> along the principal directions [B, C, T], in the same units."""
    gain: Tensor
    """[C], deviation of the training latents along each, in the model's units."""
    mean: Tensor
    """[D], raw."""


def global_space(statistics: LatentStatistics) -> Space:
    """The peers' normalisation: one mean and one deviation for all dimensions."""
    centre = float(statistics.mean.mean())
    variances, directions = statistics.principal()
    power = np.diag(statistics.covariance) + (statistics.mean - centre) ** 2
    scale = float(np.sqrt(power.mean()))
    rotation = torch.tensor(directions, dtype=torch.float32)
    return Space(
        to_model=lambda z: (z - centre) / scale,
        to_raw=lambda y: y * scale + centre,
        along=lambda x: rotation @ x,
        # A direction that does not vary still has to divide something.
        gain=torch.tensor(np.sqrt(variances) / scale, dtype=torch.float32).clamp(min=1e-6),
        mean=torch.tensor(statistics.mean, dtype=torch.float32),
    )


def whitened_space(whitening: Whitening, statistics: LatentStatistics) -> Space:
    """Our models' normalisation: whitening."""
    directions = whitening.directions.double().numpy()
    deviation = np.sqrt(np.einsum("cd,de,ce->c", directions, statistics.covariance, directions))
    return Space(
        to_model=whitening.whiten,
        to_raw=whitening.unwhiten,
        along=lambda x: x,
        gain=torch.tensor(deviation, dtype=torch.float32) / whitening.scale,
        mean=torch.tensor(statistics.mean, dtype=torch.float32),
    )


@dataclass(frozen=True)
class Skills:
    """1 - loss / loss of the best denoiser that knows only the variances."""

    own: float
    """Skill in the model's own loss, over its own levels and all its inputs."""
    matched: float
    """Skill in v, over levels common to all models and the kept directions."""


@torch.no_grad()
def skills(
    denoise: Estimate,
    levels: Sequence[float],
    parametrisation: str,
    space: Space,
    windows: Tensor,
    kept: int,
    common: Sequence[float],
) -> Skills:
    """Skills on held-out raw windows [B, D, T], with fixed noise for each level.

    `levels`: the model's own; `common`: those of the matched skill; `kept`: directions counted.
    """
    tables = [_errors(denoise, level, space, windows, k) for k, level in enumerate(levels)]
    error, known = (torch.stack(x).double() for x in zip(*tables, strict=True))
    weight = torch.tensor(
        [_own_weight(level, parametrisation) for level in levels], dtype=torch.float64
    )
    own = 1 - float((weight @ error).sum() / (weight @ known).sum())
    gain = space.gain.double()
    at = torch.tensor(levels, dtype=torch.float64)[:, None] + 2 * gain.log()
    # In v and units of each direction's deviation, where knowing the variance scores 1.
    in_v = torch.sigmoid(-at) * gain**2
    error, known = error / in_v, known / in_v
    matched = [_read(x[:, :kept], at[:, :kept], common) for x in (error, known)]
    return Skills(own, 1 - matched[0] / matched[1])


def _errors(
    denoise: Estimate, level: float, space: Space, windows: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean squared errors [C] of a model and of one that knows only mean and variance."""
    clean = space.to_model(windows)
    centre = space.to_model(space.mean[:, None])
    snr = torch.tensor(level).exp()
    alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    noise = torch.randn(clean.shape, generator=generator_for("peers", seed))
    estimate = denoise(alpha * clean + sigma * noise, level)
    apart, added = space.along(clean - centre), space.along(noise)
    power = space.gain[:, None] ** 2
    linear = alpha * power / (alpha**2 * power + sigma**2)
    known = linear * (alpha * apart + sigma * added) - apart
    error = space.along(estimate - clean)
    return error.square().mean(dim=(0, 2)), known.square().mean(dim=(0, 2))


def _own_weight(level: float, parametrisation: str) -> float:
    """Weight of a squared error of the clean latents in the loss: 1 / (d clean / d output)^2."""
    snr = float(np.exp(level))
    return snr if parametrisation == "eps" else 1 + snr


def _read(values: Tensor, at: Tensor, common: Sequence[float]) -> float:
    """Mean of values [L, C], known at log-SNRs `at` [L, C], over the common ones; ends hold."""
    total = 0.0
    for value, level in zip(values.T.numpy(), at.T.numpy(), strict=True):
        order = level.argsort()
        total += float(np.interp(common, level[order], value[order]).mean())
    return total / values.shape[1]


def scores(
    raw: Tensor, store: LatentStore, whitening: Whitening, codec: RaveCodec | None
) -> dict[str, float]:
    """Scores of samples [B, D, T] as in `latentdiff evaluate`: of the kept directions and, with a
    codec, of the sound. As noise would, if samples are not finite."""
    if not torch.isfinite(raw).all():
        failed = {"latent score": 0.0, "latent AUC": 1.0, "stays one piece, s": 0.0}
        return failed | ({} if codec is None else {"sound score": 0.0, "sound AUC": 1.0})
    assert store.codec is not None
    model: Any = SimpleNamespace(whiten=whitening.whiten)
    clips = gather(model, store, len(raw), raw.shape[-1])
    ground = Comparison(clips, store.codec.sample_rate / store.codec.hop, seed=0)
    white = controls.white_noise(clips.other.final, ground.generator("white noise"))
    raws = {
        sets.REFERENCE: clips.reference.raw,
        sets.OTHER: clips.other.raw,
        sets.SAMPLES: raw[..., : clips.frames],
        sets.WHITE: whitening.unwhiten(white),
    }
    if clips.held_out is not None:
        raws[sets.HELD_OUT] = clips.held_out.raw
    latents = {name: LatentSet(whitening.whiten(z), z) for name, z in raws.items()}
    drawn = form.latent_clips(ground, latents)
    found = _row("latent", form.score_latents(ground, drawn))
    lasting = form.coherence(ground, drawn, {})[sets.SAMPLES].continuity
    found["stays one piece, s"] = float("nan") if lasting is None else lasting.seconds
    if codec is not None:
        heard = {name: _heard(codec, z, name) for name, z in raws.items()}
        found |= _row("sound", form.score_sound(ground, heard))
    return found


def _row(kind: str, form: FormScores) -> dict[str, float]:
    """The samples' score and AUC; NaN where there are too few clips."""
    values = {
        f"{kind} score": form.joint.scores[sets.SAMPLES].value,
        f"{kind} AUC": form.joint.separation[sets.SAMPLES].value,
    }
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _heard(codec: RaveCodec, raw: Tensor, name: str) -> Heard:
    return hear(decode(codec, raw, LatentConfig(), name), codec.sample_rate)
