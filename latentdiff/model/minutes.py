"""How the minutes of a whole chain, from recordings to sound, are divided among its stages."""

from __future__ import annotations

from dataclasses import dataclass

REST_MINUTES = 2.5
"""What all but the two trainings takes on two CPU cores: starting eight commands, preprocess and
encode for a few minutes of audio, calibration, sample, decode, evaluate."""
REST_SHARE = 0.3
"""Largest share of the minutes that is set aside for it; of very few, training gets some too."""
CODEC_SHARE = 0.65
"""Share of the training time that the codec gets. Nothing sounds better than its reconstruction,
while the diffusion model, with style and beat given, is good after a minute."""


@dataclass(frozen=True)
class ChainMinutes:
    """A division of minutes."""

    rave: float
    """For train-rave."""
    diffusion: float
    """For train-diffusion, without the calibration that follows it."""
    rest: float
    """For all other commands."""

    def settings(self) -> list[str]:
        """KEY=VALUE words that replace the steps of a preset by these budgets.

        What a preset counts in steps fits another number of them: null fits it to the budget.
        """
        counted = ("steps", "phase_1_steps", "beta_warmup_steps", "validate_every")
        return [
            f"rave.hours={self.rave / 60:.4g}",
            *(f"rave.{name}=null" for name in counted),
            f"training.hours={self.diffusion / 60:.4g}",
            *(f"training.{name}=null" for name in ("steps", "validate_every")),
        ]

    def __str__(self) -> str:
        return (
            f"{self.rave:.2g} minutes for train-rave, {self.diffusion:.2g} for train-diffusion, "
            f"about {self.rest:.2g} for the rest"
        )


def divide(minutes: float) -> ChainMinutes:
    """Divide `minutes`, which are above 0."""
    rest = min(REST_MINUTES, REST_SHARE * minutes)
    rave = CODEC_SHARE * (minutes - rest)
    return ChainMinutes(rave, minutes - rest - rave, rest)
