"""Sets of latents, drawn and real, and what is measured on them without a codec.

Shapes: B clips, C latent channels, D latent dimensions, t frames of a piece, T frames of a clip, W
frames of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation import compare, neighbours, windows
from latentdiff.evaluation.compare import Comparison
from latentdiff.model.clips import Clips, conditions
from latentdiff.model.condition_inputs import as_condition, followed_kinds
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.results import LabelSpread, Neighbours, Spread
from latentdiff.model.sampling import draw
from latentdiff.training.data import seed_of

WINDOW = 16
"""Length in frames of the windows compared with their nearest training window."""
WINDOWS = 256
"""Number of such windows per set."""
PIECE = 1 << 14
"""Frames of a training file that are searched at a time."""


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
    """Distance of samples to their nearest training window, compared with that of held-out clips.

    None without held-out clips.
    """
    held_out = inputs.clips.held_out
    if held_out is None:
        return None
    scale = deviation(inputs.clips.reference, inputs.clips.other)[:, None]
    width = min(WINDOW, inputs.clips.frames)
    queries = [_windows(x / scale, width) for x in (samples.final, held_out.final)]
    pieces = (piece / scale for piece in _training_pieces(inputs, width))
    distances = neighbours.nearest(torch.cat(queries), pieces)
    of_samples, of_held_out = distances[: len(queries[0])], distances[len(queries[0]) :]
    return Neighbours(
        neighbours.ratio(of_samples, of_held_out),
        float(of_samples.median()),
        float(of_held_out.median()),
        inputs.model.spec.seconds(width),
    )


def _training_pieces(inputs: EvaluationInputs, width: int) -> Iterator[Tensor]:
    """Final latents [C, t] of all training files, in pieces that hold each window exactly once."""
    for entry in inputs.store.of("train"):
        raw = inputs.store.mean(entry)
        for start in range(0, entry.frames - width + 1, PIECE):
            # Overlapping by width - 1 frames, so that no window is cut in two.
            piece = np.array(raw[:, start : start + PIECE + width - 1], dtype=np.float32)
            yield inputs.model.whiten(torch.from_numpy(piece))


def _windows(clips: Tensor, width: int) -> Tensor:
    """At most WINDOWS windows [B, C, W] of clips [B, C, T], evenly spread and not overlapping."""
    cut = clips.unfold(-1, width, width).transpose(1, 2).flatten(0, 1)
    return cut[windows.spread(len(cut), WINDOWS)]
