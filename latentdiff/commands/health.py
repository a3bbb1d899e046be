"""What `preprocess` and `encode` say about the health of the data: one warning a finding."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentdiff.audio.health import FileHealth, HealthFinding, find_problems, named
from latentdiff.errors import UserError
from latentdiff.evaluation.leaks import Leak, find_leaks
from latentdiff.latents.outliers import Outliers, find_outliers
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataHealth:
    """What is suspicious about the recordings of a store, as `run.json` holds it."""

    health: list[HealthFinding]
    """By their sound."""
    outliers: list[Outliers]
    """By their latents."""
    leaks: list[Leak]
    """Held-out recordings that are also in the training files; training refuses them."""

    def warn(self) -> None:
        """A warning for each finding."""
        warn_of(self.health)
        for one in self.outliers:
            log.warning("%s: %s", one.text, named(one.keys))
        for leak in self.leaks:
            log.warning(
                "%s is held out, but is also in the training files, as %s: train-diffusion will "
                "refuse it. Remove one of them, then preprocess and encode again.",
                *(leak.held_out, leak.training),
            )


def examine(
    store: LatentStore,
    statistics: LatentStatistics,
    recordings: Mapping[str, FileHealth],
    channels: int,
    frame_rate: float,
) -> DataHealth:
    """Look at a complete store and its recordings, by key; `frame_rate` of latents in Hz."""
    seconds = sum(entry.frames for entry in store.of("validation")) / frame_rate
    problems = find_problems(recordings, channels=channels, held_out_seconds=seconds)
    try:
        leaks = find_leaks(store, Whitening.from_statistics(statistics).whiten, frame_rate)
    except UserError:
        # Latents that do not vary: said by whoever describes the statistics.
        leaks = []
    return DataHealth(problems, find_outliers(store), leaks)


def warn_of(findings: Sequence[HealthFinding]) -> None:
    """A warning for each finding about recordings."""
    for finding in findings:
        log.warning("%s", finding.text)
