"""What can be wrong inside a network, and with its samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentdiff.diagnose.training import advice
from latentdiff.diagnose.training.findings import Finding, Severity
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.evaluation.activations import Activations
from latentdiff.model.project import Project

GROWTH = 30.0
"""Growth of the stream from the first block to the last, above which late blocks add nothing."""
WEAK = 0.02
"""Condition over the signal it joins, below which it is lost."""
SHUT = 0.9
"""Share of saturated gates in the typical block above which the network is stuck."""
DEAD = 0.02
"""Magnitude of the output below which it is as good as zero; its target has about 1."""
SPREAD = 1.7
"""Ratio of the spreads of samples and latents that is no accident."""
OFF = 0.5
"""Distance between the means of samples and latents that is no accident, in the latents' standard
deviations."""


@dataclass(frozen=True)
class BatchNormLosses:
    """Losses of a network with BatchNorm, by noise level."""

    names: list[str]
    """The BatchNorm layers."""
    logsnr: list[float]
    used: list[float]
    """Losses with the statistics gathered in training, as the model is used."""
    own: list[float]
    """Losses with the statistics of a batch of that noise level only."""


@dataclass(frozen=True)
class SampleStatistics:
    """Statistics of a few samples relative to the latents of as many training windows."""

    spread: list[float]
    """[C], their standard deviation over that of the latents."""
    offset: list[float]
    """[C], difference of the means in standard deviations of the latents."""
    count: int


def batch_norm(losses: BatchNormLosses, settings: Project) -> Finding:
    """The network's output depends on what else was in the batches of its training."""
    ratios = [used / max(own, 1e-12) for used, own in zip(losses.used, losses.own, strict=True)]
    worst = max(range(len(ratios)), key=lambda i: ratios[i])
    mean = sum(losses.used) / sum(losses.own)
    return Finding(
        "batch-norm",
        Severity.BREAKS,
        "BatchNorm normalises noise levels by each other's statistics",
        (
            f"{len(losses.names)} BatchNorm layers, the first is {losses.names[0]} (healthy: none)",
            f"log-SNR {losses.logsnr[worst]:+.1f}: loss {losses.used[worst]:.3f} in use, "
            f"{losses.own[worst]:.3f} with a batch's own statistics; over all levels {mean:.2f} "
            "times as much in use (healthy: 1)",
        ),
        advice.batch_norm(settings),
    )


def growing_stream(levels: Mapping[float, Activations], settings: Project) -> Finding | None:
    """The residual stream drowns what late blocks add."""
    logsnr, worst = max(levels.items(), key=lambda item: item[1].growth)
    if worst.growth < GROWTH:
        return None
    first, last = worst.blocks[0], worst.blocks[-1]
    return Finding(
        "growing-stream",
        Severity.COSTS,
        "the signal grows from block to block and drowns what late blocks add",
        (
            f"log-SNR {logsnr:+.1f}: magnitude {first.stream_in:.3g} into {first.name}, "
            f"{last.stream_out:.3g} out of {last.name}, {worst.growth:.0f} times as much "
            "(healthy: 1 to 10)",
        ),
        advice.growing_stream(settings),
    )


def condition_share(levels: Mapping[float, Activations]) -> float | None:
    """Magnitude of the condition over the signal that it joins, in the typical block and level."""
    shares = [
        block.condition / max(block.signal, 1e-12)
        for activations in levels.values()
        for block in activations.blocks
        if block.condition is not None
    ]
    return statistics.median(shares) if shares else None


def weak_condition(levels: Mapping[float, Activations], settings: Project) -> Finding | None:
    """The condition is negligible compared with the signal it is added to."""
    share = condition_share(levels)
    if share is None or share > WEAK:
        return None
    return Finding(
        "weak-condition",
        Severity.COSTS,
        "the condition is too small beside the signal that it joins",
        (f"{share:.2g} of the signal's magnitude in the typical block (healthy: 0.1 to 2)",),
        advice.weak_condition(settings),
    )


def shut_gates(levels: Mapping[float, Activations], settings: Project) -> Finding | None:
    """Gates are wide open or shut, where they have no gradient."""
    shares = [
        block.saturated
        for activations in levels.values()
        for block in activations.blocks
        if block.saturated is not None
    ]
    if not shares or statistics.median(shares) < SHUT:
        return None
    return Finding(
        "shut-gates",
        Severity.COSTS,
        "the network's gates are stuck wide open or shut",
        (f"{statistics.median(shares):.0%} of them in the typical block (healthy: 5 to 60 %)",),
        advice.shut_gates(settings),
    )


def dead_output(levels: Mapping[float, Activations]) -> Finding | None:
    """The network puts out next to nothing at every level."""
    strongest = max(activations.output for activations in levels.values())
    if strongest > DEAD:
        return None
    return Finding(
        "dead-output",
        Severity.SYMPTOM,
        "the network puts out next to nothing",
        (f"magnitude {strongest:.2g} at the strongest level (its target: about 1)",),
        advice.dead_output(),
    )


def strange_samples(
    samples: SampleStatistics, settings: Project, drawn: SamplingConfig
) -> Finding | None:
    """Samples are far weaker, wilder or elsewhere than the latents; `drawn`: how they were."""
    spread = statistics.median(samples.spread)
    offset = statistics.median(map(abs, samples.offset))
    # `not ... <`, as NaN is wild.
    if not spread < SPREAD:
        title, do_this = "vary more than", advice.wild_samples(settings, drawn)
    elif spread <= 1 / SPREAD:
        title, do_this = "are weaker and more alike than", advice.weak_samples(settings, drawn)
    elif not offset < OFF:
        title, do_this = "have another mean than", advice.displaced_samples(settings)
    else:
        return None
    return Finding(
        "strange-samples",
        Severity.SYMPTOM,
        f"samples {title} the latents",
        (
            f"standard deviation {spread:.2f} of the latents' in the typical direction, "
            f"{min(samples.spread):.2f} to {max(samples.spread):.2f} over all (healthy: about 1); "
            f"{samples.count} samples",
            f"means differ by at most {max(map(abs, samples.offset)):.2f} standard deviations "
            "(healthy: about 0)",
        ),
        do_this,
    )


def weak_schedule(warnings: Sequence[str], settings: Project) -> Finding | None:
    """The noise schedule does not fit the sampling."""
    if not warnings:
        return None
    return Finding(
        "schedule",
        Severity.COSTS,
        "the noise schedule does not fit the sampling",
        tuple(warnings),
        advice.schedule(settings),
    )
