"""Schedules to compare: those of the literature, and those of the first user's notebook.

All are settings, so any of them can be trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.diffusion.settings import ScheduleConfig


@dataclass(frozen=True)
class Exhibit:
    """One schedule of the gallery."""

    name: str
    config: ScheduleConfig
    source: str
    notebook: bool = False
    """Whether it is from the first user's notebook (configs/notebook) rather than from a paper."""


def _betas(start: float, end: float, steps: int = 1000) -> ScheduleConfig:
    return ScheduleConfig(name="betas", beta_start=start, beta_end=end, beta_steps=steps)


LITERATURE = (
    *(
        Exhibit(name, ScheduleConfig(name=name), entry.source)
        for name, entry in SCHEDULES.items()
        if name != "betas"
    ),
    Exhibit(
        "cosine, shifted",
        # 2 ln(64 / 256): the level of 64 x 64 pixels kept at 256 x 256.
        ScheduleConfig(name="cosine", shift=2 * math.log(64 / 256)),
        "Hoogeboom et al. 2023, arXiv 2301.11093, sec. 3.1",
    ),
    Exhibit(
        "flow, shifted",
        # Their t' = 3 t / (1 + 2 t) adds -2 ln 3 to the log-SNR.
        ScheduleConfig(name="flow", shift=-2 * math.log(3)),
        "Esser et al. 2024, arXiv 2403.03206, eq. 23 with the 3 of Stable Diffusion 3",
    ),
    Exhibit("diffwave, large", _betas(1e-4, 0.02, 200), "Kong et al. 2020, arXiv 2009.09761"),
    Exhibit(
        "wavegrad",
        _betas(1e-6, 0.01),
        "Chen et al. 2020, arXiv 2009.00713, as its public implementations train",
    ),
)

NOTEBOOK = tuple(
    Exhibit(f"{start:g}..{end:g} ({steps})", _betas(start, end, steps), entries, notebook=True)
    for start, end, steps, entries in (
        (1e-4, 0.05, 500, "N35"),
        (1e-4, 0.05, 1000, "N36, N48, N63, N66"),
        (1e-5, 0.0085, 1000, "N51"),
        (1e-5, 0.005, 1000, "N61"),
        (1e-4, 0.04, 1000, "N80"),
        (1e-4, 1.0, 1000, "N97, there with 1 to 100 steps"),
    )
)
"""Its other schedules are diffwave (N34), audioldm (N49) and linear-ddpm (N75)."""

GALLERY = LITERATURE + NOTEBOOK
