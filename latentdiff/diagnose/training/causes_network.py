"""What can be wrong inside a network, and with what it makes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentdiff.diagnose.training.findings import Finding, Weight
from latentdiff.evaluation.activations import Activations

GROWTH = 30.0
"""Of the stream from the first block to the last, beyond which late blocks add nothing."""
WEAK = 0.02
"""Condition over the signal it joins, below which it cannot be heard."""
SHUT = 0.9
"""Share of saturated gates in the typical block from which the network is stuck."""
DEAD = 0.02
"""Magnitude of the output, whose target has about 1, below which it is as good as zero."""
SPREAD = 1.7
"""Factor between the spread of samples and of latents that is no accident."""
OFF = 0.5
"""Distance of the samples' mean from that of the latents, in their standard deviations."""


@dataclass(frozen=True)
class BatchNorms:
    """Layers that normalise by the statistics of a batch, and what they do to the loss."""

    names: list[str]
    logsnr: list[float]
    used: list[float]
    """Loss at each level with the statistics gathered in training, as the model is used."""
    own: list[float]
    """Loss at each level with the statistics of a batch of that level."""


@dataclass(frozen=True)
class Samples:
    """A handful of samples beside the latents of as many training windows."""

    spread: list[float]
    """[C], standard deviation over theirs."""
    offset: list[float]
    """[C], difference of means in their standard deviations."""
    count: int


def batch_norm(found: BatchNorms) -> Finding:
    """What the network puts out depends on what else was in the batches of its training."""
    ratios = [used / max(own, 1e-12) for used, own in zip(found.used, found.own, strict=True)]
    worst = max(range(len(ratios)), key=lambda i: ratios[i])
    mean = sum(found.used) / sum(found.own)
    return Finding(
        "batch-norm",
        Weight.BREAKS,
        "BatchNorm normalises noise levels by each other's statistics",
        (
            f"{len(found.names)} layers of BatchNorm, the first of them {found.names[0]} (sound: "
            "none)",
            f"log-SNR {found.logsnr[worst]:+.1f}: loss {found.used[worst]:.3f} in use, "
            f"{found.own[worst]:.3f} with a batch's own statistics; over all levels {mean:.2f} "
            "times as much in use (sound: 1)",
        ),
        "use GroupNorm or LayerNorm, as all networks of `network.name` do, and draw a noise level "
        "for each window of a batch.",
    )


def growing_stream(levels: Mapping[float, Activations]) -> Finding | None:
    """The residual stream drowns what late blocks add."""
    logsnr, worst = max(levels.items(), key=lambda item: item[1].growth)
    if worst.growth < GROWTH:
        return None
    first, last = worst.blocks[0], worst.blocks[-1]
    return Finding(
        "growing-stream",
        Weight.COSTS,
        "the signal grows from block to block until nothing that is added counts",
        (
            f"log-SNR {logsnr:+.1f}: magnitude {first.stream_in:.3g} into {first.name}, "
            f"{last.stream_out:.3g} out of {last.name}, {worst.growth:.0f} times as much (sound: 1 "
            "to 10)",
        ),
        "normalise before each block and sum what the blocks put out, as network.name=diffwave "
        "does; lower training.learning_rate.",
    )


def condition_share(levels: Mapping[float, Activations]) -> float | None:
    """Condition over the signal that it joins, in the typical block and level."""
    shares = [
        block.condition / max(block.signal, 1e-12)
        for found in levels.values()
        for block in found.blocks
        if block.condition is not None
    ]
    return statistics.median(shares) if shares else None


def weak_condition(levels: Mapping[float, Activations]) -> Finding | None:
    """The condition is lost beside the signal it joins."""
    share = condition_share(levels)
    if share is None or share > WEAK:
        return None
    return Finding(
        "weak-condition",
        Weight.COSTS,
        "the condition is too small beside the signal that it joins",
        (f"{share:.2g} of it in the typical block (sound: 0.1 to 2)",),
        "standardise the condition and normalise the encoder's output; lower the learning rate if "
        "the signal itself has grown.",
    )


def shut_gates(levels: Mapping[float, Activations]) -> Finding | None:
    """Gates are wide open or shut, and learn no more."""
    shares = [
        block.saturated
        for found in levels.values()
        for block in found.blocks
        if block.saturated is not None
    ]
    if not shares or statistics.median(shares) < SHUT:
        return None
    return Finding(
        "shut-gates",
        Weight.COSTS,
        "the gates are stuck wide open or shut",
        (f"{statistics.median(shares):.0%} of them in the typical block (sound: 5 to 60 %)",),
        "lower training.learning_rate and train anew.",
    )


def dead_output(levels: Mapping[float, Activations]) -> Finding | None:
    """The network puts out next to nothing at every level."""
    loudest = max(found.output for found in levels.values())
    if loudest > DEAD:
        return None
    return Finding(
        "dead-output",
        Weight.SYMPTOM,
        "the network puts out next to nothing",
        (f"magnitude {loudest:.2g} at the loudest level (its target: about 1)",),
        "see the other findings; if there are none, train longer.",
    )


def strange_samples(found: Samples) -> Finding | None:
    """Samples are far tamer, wilder or elsewhere than what was learned from."""
    spread, offset = statistics.median(found.spread), max(map(abs, found.offset))
    if 1 / SPREAD < spread < SPREAD and statistics.median(map(abs, found.offset)) < OFF:
        return None
    return Finding(
        "strange-samples",
        Weight.SYMPTOM,
        "samples are not spread as the latents are",
        (
            f"standard deviation {spread:.2f} of theirs in the typical direction, "
            f"{min(found.spread):.2f} to {max(found.spread):.2f} over all (sound: about 1), over "
            f"{found.count} samples",
            f"means differ by {offset:.2f} standard deviations at most (sound: about 0)",
        ),
        "tame: train longer. Wild: raise sampling.steps, lower sampling.guidance, and look at the "
        "noisiest levels and at `latentdiff diagnose schedule`.",
    )


def weak_schedule(warnings: Sequence[str]) -> Finding | None:
    """The schedule itself asks for trouble."""
    if not warnings:
        return None
    return Finding(
        "schedule",
        Weight.COSTS,
        "the noise schedule does not fit the sampling",
        tuple(warnings),
        "use diffusion.schedule.name=cosine; `latentdiff diagnose schedule` shows others.",
    )
