"""Sets of latents, drawn and real, and what is measured on them without a codec.

Shapes: B clips, C latent channels, D latent dimensions, t frames of a piece, T frames of a clip, W
frames of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import controls, copies, sets
from latentdiff.evaluation.copies import Copies
from latentdiff.model.clips import Clips, conditions
from latentdiff.model.condition_inputs import as_condition, followed_kinds
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.results import LabelSpread, Spread
from latentdiff.model.sampling import draw
from latentdiff.training.data import seed_of


@dataclass(frozen=True)
class LatentSet:
    """Clips of equal length as latents."""

    final: Tensor
    """[B, C, T], whitened."""
    raw: Tensor
    """[B, D, T] as the codec decodes them."""
    network_calls: int = 0
    """Per sample; 0 for real clips."""


def draw_samples(
    inputs: EvaluationInputs, settings: SamplingConfig, n: int, followed: Clips
) -> LatentSet:
    """`n` samples that follow these clips in turn: a model that follows recordings or labels has
    theirs, others the styles and tempi of the files that the clips are from. So samples and clips
    are spread over the same files, long ones more often than short ones.

    Raises NonFiniteSamples.
    """
    model = inputs.model
    # Not seed, seed + 1, ...: evaluations with seeds 0 and 1 would share all samples but one.
    seeds = [seed_of(inputs.settings.seed, "evaluate", k) for k in range(n)]
    if followed_kinds(model) or model.labels:
        condition = conditions(model, inputs.store, followed)
    else:
        files = [place.entry.key for place in followed.places]
        drawn = ConditionMaker(model).batch(seeds, inputs.sample_frames, files)
        condition = as_condition(drawn)
    samples = draw(model, settings, seeds, inputs.sample_frames, condition)
    raw = _unwhiten(inputs, samples.latents, settings)
    return LatentSet(samples.latents, raw, samples.network_calls)


def draw_following_held_out(inputs: EvaluationInputs) -> LatentSet | None:
    """A sample for each held-out clip; None without any, or if no spectrogram is followed."""
    held_out = inputs.clips.held_out
    if held_out is None or not followed_kinds(inputs.model):
        return None
    return draw_samples(inputs, inputs.settings.sampling, len(held_out), held_out)


def _unwhiten(inputs: EvaluationInputs, final: Tensor, settings: SamplingConfig) -> Tensor:
    return inputs.model.unwhiten(final, settings.fill, inputs.comparison.generator("fill"))


def real_and_drawn(
    inputs: EvaluationInputs, samples: LatentSet, following: LatentSet | None
) -> dict[str, LatentSet]:
    """Every set that is decoded, by name."""
    clips = inputs.clips
    white = controls.white_noise(clips.other.final, inputs.comparison.generator("white noise"))
    found = {
        sets.REFERENCE: _real(clips.reference),
        sets.SAMPLES: samples,
        sets.OTHER: _real(clips.other),
        # The same final latents as OTHER, but decoded from the kept directions only.
        sets.KEPT: _decodable(inputs, clips.other.final),
        sets.WHITE: _decodable(inputs, white),
    }
    if following is not None:
        found[sets.FOLLOWING] = following
    # Nothing can be said about the spread of a single clip.
    if clips.held_out is not None and len(clips.held_out) > 1:
        found[sets.HELD_OUT] = _real(clips.held_out)
    return found


def _real(clips: Clips) -> LatentSet:
    return LatentSet(clips.final, clips.raw)


def _decodable(inputs: EvaluationInputs, final: Tensor) -> LatentSet:
    return LatentSet(final, _unwhiten(inputs, final, inputs.settings.sampling))


def deviation(*sets: Clips) -> Tensor:
    """Standard deviation [C] of the final latents of these clips."""
    return _deviation(torch.cat([clips.final for clips in sets]))


def _deviation(final: Tensor) -> Tensor:
    return final.std(dim=(0, 2), correction=0).clamp(min=1e-6)


def spread(inputs: EvaluationInputs, samples: LatentSet) -> Spread:
    """Spread of the samples relative to the training clips."""
    clips = inputs.clips
    training = torch.cat([clips.reference.final, clips.other.final])
    ratio = _relative_spread(samples.final, training)
    return Spread(
        float(ratio.median()), ratio.tolist(), _spread_by_label(inputs, samples.final, training)
    )


def _relative_spread(final: Tensor, real: Tensor) -> Tensor:
    """[C] standard deviation over that of real latents, each about its own mean."""
    return final.std(dim=(0, 2), correction=0) / _deviation(real)


def _spread_by_label(
    inputs: EvaluationInputs, final: Tensor, training: Tensor
) -> dict[str, LabelSpread]:
    """Spread of the samples of each label, relative to the training clips with that label."""
    reference, other = inputs.clips.reference, inputs.clips.other
    of_clips = [place.entry.label for place in [*reference.places, *other.places]]
    # Samples follow the other clips in turn; see `draw_samples`.
    of_samples = [other.places[k % len(other)].entry.label for k in range(len(final))]
    spreads = {}
    for label in inputs.model.labels:
        mine = torch.tensor([name == label for name in of_samples])
        real = torch.tensor([name == label for name in of_clips])
        if mine.sum() > 1 and real.sum() > 1:
            ratio = _relative_spread(final[mine], training[real])
            spreads[label] = LabelSpread(int(mine.sum()), float(ratio.median()))
    return spreads


def find_copies(inputs: EvaluationInputs, samples: LatentSet) -> Copies:
    """Whether samples copy training recordings; see `evaluation.copies`."""
    held_out, scale = inputs.clips.held_out, deviation(inputs.clips.reference, inputs.clips.other)
    return copies.find_copies(
        samples.final / scale[:, None],
        None if held_out is None else held_out.final / scale[:, None],
        _TrainingFiles(inputs, scale),
        inputs.model.codec.frame_rate,
    )


@dataclass(frozen=True)
class _TrainingFiles(Sequence[Tensor]):
    """Final latents [C, t] of the training files over `scale` [C], read when asked for."""

    inputs: EvaluationInputs
    scale: Tensor

    def __len__(self) -> int:
        return len(self.inputs.store.of("train"))

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        entry = self.inputs.store.of("train")[index]
        raw = np.array(self.inputs.store.mean(entry), dtype=np.float32)
        return self.inputs.model.whiten(torch.from_numpy(raw)) / self.scale[:, None]
