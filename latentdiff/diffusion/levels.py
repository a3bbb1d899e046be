"""Which noise levels training visits: a log-SNR is drawn for each window of a batch.

Every distribution is stratified over the batch and limited to the range of the schedule.

Shapes: B batch, K bins of the schedule's t.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentdiff.diffusion.noise import Schedule, stratified
from latentdiff.diffusion.schedules import EDM_MEAN, EDM_STD
from latentdiff.diffusion.settings import LevelsConfig

BINS = 32
"""Bins of t in which the adaptive sampler averages losses."""

MEMORY = 0.99
"""Factor by which remembered losses decay in each step: an average over about 100 steps."""

FLOOR = 0.2
"""Share of the draws that follow the schedule, so that no weight exceeds 1 / FLOOR = 5."""

PRIOR = 1.0
"""Pseudo-observations of the mean loss in each bin, for bins that have seen few windows."""


class NoiseLevelSampler:
    """Draws log-SNRs as often as the schedule itself visits them."""

    observant = False
    """Whether draws depend on observed losses."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """log-SNR [B], one in each of B equally likely intervals, and weights [B] of their losses.

        Equal states and generators give equal draws. float32, on the generator's device.
        """
        logsnr = self.schedule(stratified(batch, generator))
        return logsnr, torch.ones_like(logsnr)

    def observe(self, logsnr: Tensor, losses: Tensor) -> None:
        """Learn from the losses [B] of a whole step, not multiplied by the weights of `draw`."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that later draws depend on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state of `state_dict`."""


class NormalNoiseLevelSampler(NoiseLevelSampler):
    """Normal log-SNR, truncated to the schedule's limits (not clipped to them)."""

    def __init__(self, schedule: Schedule, mean: float, std: float) -> None:
        """`mean` and `std` of the log-SNR before truncation."""
        super().__init__(schedule)
        self._mean, self._std = mean, std
        # Share of the untruncated distribution on the noisy side of each limit: t = 0 is clean.
        limits = torch.tensor([schedule.logsnr_max, schedule.logsnr_min], dtype=torch.float64)
        self._noisier = torch.special.ndtr((mean - limits) / std)

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `NoiseLevelSampler.draw`."""
        uniform = stratified(batch, generator)
        first, last = self._noisier.tolist()
        # The inverse distribution function on the part between the limits; float64, because ndtri
        # is steep where a limit is far out in a tail. The clamp only undoes rounding.
        share = first + (last - first) * uniform.double()
        logsnr = self._mean - self._std * torch.special.ndtri(share)
        logsnr = logsnr.clamp(self.schedule.logsnr_min, self.schedule.logsnr_max).float()
        return logsnr, torch.ones_like(logsnr)


class AdaptiveNoiseLevelSampler(NoiseLevelSampler):
    """Draws levels in proportion to their loss; weights keep the schedule's objective.

    Kingma and Gao 2023 (arXiv 2303.00848, app. F): the density over the schedule's t is a
    histogram proportional to smoothed losses. Each loss is divided by that density, so its
    expectation stays that of the schedule, while every bin contributes about equally to it.
    """

    observant = True

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self._sums = torch.zeros(BINS, dtype=torch.float64)
        self._counts = torch.zeros(BINS, dtype=torch.float64)

    def density(self) -> Tensor:
        """[K] over t in 0..1, with mean 1 and nowhere below FLOOR."""
        total = self._counts.sum()
        if total == 0 or self._sums.sum() <= 0:
            return torch.ones(BINS, dtype=torch.float64)
        mean = self._sums.sum() / total
        losses = (self._sums + PRIOR * mean) / (self._counts + PRIOR)
        return FLOOR + (1 - FLOOR) * losses / losses.mean()

    def draw(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """See `NoiseLevelSampler.draw`."""
        uniform = stratified(batch, generator)
        density = self.density().to(uniform.device)
        # Invert the piecewise linear distribution function, whose knots are `edges`.
        edges = density.cumsum(0) / BINS
        wanted = uniform.double()
        bins = torch.searchsorted(edges, wanted).clamp(max=BINS - 1)
        before = edges[bins] - density[bins] / BINS
        t = (bins + ((wanted - before) / density[bins] * BINS).clamp(0, 1)) / BINS
        return self.schedule(t.float()), density[bins].reciprocal().float()

    def observe(self, logsnr: Tensor, losses: Tensor) -> None:
        """See `NoiseLevelSampler.observe`; values that are not finite are ignored."""
        losses = losses.detach().double().cpu()
        finite = losses.isfinite()
        t = self.schedule.t_of(logsnr.detach().double().cpu())
        bins = (t * BINS).long().clamp(0, BINS - 1)[finite]
        self._sums = (MEMORY * self._sums).index_add(0, bins, losses[finite])
        self._counts = (MEMORY * self._counts).index_add(0, bins, torch.ones_like(losses[finite]))

    def state_dict(self) -> dict[str, Tensor]:
        """See `NoiseLevelSampler.state_dict`."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `NoiseLevelSampler.load_state_dict`; an empty state is the initial one."""
        self._sums = state.get("sums", torch.zeros(BINS)).double()
        self._counts = state.get("counts", torch.zeros(BINS)).double()


def build_noise_level_sampler(config: LevelsConfig, schedule: Schedule) -> NoiseLevelSampler:
    """The distribution that the settings name.

    logit-normal: Esser et al. 2024, arXiv 2403.03206, eq. 19, logit t normal on the straight path,
    where log-SNR = -2 logit t. edm: Karras et al. 2022, arXiv 2206.00364, table 1, ln(sigma)
    normal, where log-SNR = -2 ln(sigma); their data has deviation 0.5, ours 1.
    """
    if config.name == "schedule":
        return NoiseLevelSampler(schedule)
    if config.name == "adaptive":
        return AdaptiveNoiseLevelSampler(schedule)
    mean, std = (EDM_MEAN, EDM_STD) if config.name == "edm" else (0.0, 1.0)
    mean = mean if config.mean is None else config.mean
    std = std if config.std is None else config.std
    return NormalNoiseLevelSampler(schedule, -2 * mean, 2 * std)
