"""Sets of latents, drawn and real, and what is measured on them without a codec.

Shapes: B clips, C latent channels, D latent dimensions, t frames of a piece, T frames of a clip, W
frames of a window.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import compare, copies, windows
from latentdiff.evaluation.compare import Comparison
from latentdiff.evaluation.copies import Closeness, Copies
from latentdiff.model.clips import Clips, conditions
from latentdiff.model.condition_inputs import as_condition, followed_kinds
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.results import LabelSpread, Neighbours, Spread
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
    """`n` samples, in styles and tempi of training files; a model that follows recordings or
    labels follows those of these clips in turn.

    Raises NonFiniteSamples.
    """
    model = inputs.model
    # Not seed, seed + 1, ...: evaluations with seeds 0 and 1 would share all samples but one.
    seeds = [seed_of(inputs.settings.seed, "evaluate", k) for k in range(n)]
    if followed_kinds(model) or model.labels:
        condition = conditions(model, inputs.store, followed)
    else:
        drawn = ConditionMaker(model).batch(seeds, inputs.sample_frames)
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
    return inputs.model.unwhiten(final, settings.fill, inputs.generator("fill"))


def all_sets(
    inputs: EvaluationInputs, samples: LatentSet, following: LatentSet | None
) -> dict[str, LatentSet]:
    """Every set that is compared, by name, in the order of the table."""
    reference, other, held_out = inputs.clips.reference, inputs.clips.other, inputs.clips.held_out
    shuffled = windows.shuffled(other.raw, inputs.generator("shuffled"))

    def decodable(final: Tensor) -> LatentSet:
        return LatentSet(final, _unwhiten(inputs, final, inputs.settings.sampling))

    sets = {
        compare.REFERENCE: LatentSet(reference.final, reference.raw),
        compare.OTHER: LatentSet(other.final, other.raw),
        compare.HELD_OUT: None if held_out is None else LatentSet(held_out.final, held_out.raw),
        compare.SAMPLES: samples,
        compare.FOLLOWING: following,
        # The same final latents as OTHER, but decoded from the kept directions only.
        compare.KEPT: decodable(other.final),
        compare.WEAK: decodable(windows.weakened(other.final)),
        compare.WHITE: decodable(windows.white_noise(other.final, inputs.generator("white noise"))),
        # Raw frames, so that what the network does not see is shuffled along.
        compare.SHUFFLED: LatentSet(inputs.model.whiten(shuffled), shuffled),
    }
    sets_in_order = ((name, sets[name]) for name in compare.ORDER)
    # The spread of a set cannot be measured on a single clip.
    return {name: latents for name, latents in sets_in_order if latents and len(latents.final) > 1}


def compare_latents(inputs: EvaluationInputs, sets: Mapping[str, LatentSet]) -> Comparison:
    """Compare sets by their final latents, in units of `deviation`."""
    scale = deviation(inputs.clips.reference, inputs.clips.other)[:, None]
    # As final latents, KEPT is the same as OTHER.
    chosen = {name: latents for name, latents in sets.items() if name != compare.KEPT}
    return compare.compare_clips({name: x.final / scale for name, x in chosen.items()})


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


def nearest_training_windows(inputs: EvaluationInputs, samples: LatentSet) -> Neighbours | None:
    """How close samples come to training recordings, compared with held-out clips.

    None without held-out clips.
    """
    if inputs.clips.held_out is None:
        return None
    found = find_copies(inputs, samples)
    real = found.held_out or found.real or found.clips

    def distance(clips: Sequence[Closeness]) -> float:
        return 1 - statistics.median(one.resemblance for one in clips)

    seconds = inputs.model.spec.seconds(found.window_frames)
    return Neighbours(found.ratio, distance(found.clips), distance(real), seconds)


def find_copies(inputs: EvaluationInputs, samples: LatentSet) -> Copies:
    """Whether samples copy training recordings."""
    held_out, scale = inputs.clips.held_out, deviation(inputs.clips.reference, inputs.clips.other)
    return copies.find_copies(
        samples.final / scale[:, None],
        None if held_out is None else held_out.final / scale[:, None],
        _TrainingFiles(inputs, scale),
        1 / inputs.model.spec.seconds(1),
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
