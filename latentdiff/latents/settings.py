"""Settings of encoding and of what part of the latents the diffusion model sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictFloat, StrictInt, field_validator

from latentdiff.config import Section

Scaling = Literal["unit", "posterior", "global"]


class LatentConfig(Section):
    """How audio becomes latents, and which of their directions are kept."""

    keep: Literal["auto", "all"] | StrictInt | StrictFloat = "auto"
    """Principal directions the diffusion model sees. auto: those along which the encoder sends
    more than 0.1 bit a frame, by the latents' variance over its own posterior's (without stored
    posterior: 99 % of the variance). all: every direction that varies at all. A whole number: that
    many. A fraction between 0 and 1: as many as hold that share of the variance."""

    scaling: Scaling = "unit"
    """How the kept directions weigh in the loss. unit: alike, each has variance 1. posterior: by
    how far each rises above the encoder's own noise. global: by their variance, as the codec made
    them. The mean variance is 1 in each case."""

    keep_std: bool = False
    """Store the posterior's standard deviation beside its mean (doubles the disk space)."""

    chunk_seconds: float = Field(default=20.0, gt=0)
    """Seconds of audio the codec sees at once; longer files run in overlapping chunks with an
    unchanged result. Larger is faster and takes more memory."""

    batch: int = Field(default=1, ge=1)
    """Chunks encoded or decoded together; short files are gathered to fill as many. 1 is fastest on
    a CPU, whose caches hold no more; more is faster on a GPU and takes more memory."""

    @field_validator("keep", mode="before")
    @classmethod
    def _keep_is_possible(cls, keep: object) -> object:
        if keep in ("auto", "all"):
            return keep
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            raise ValueError("must be auto, all, a whole number or a share such as 0.99")
        if isinstance(keep, float) and not 0 < keep < 1:
            raise ValueError("a share of the variance must lie between 0 and 1, exclusive")
        if keep < 1 and isinstance(keep, int):
            raise ValueError("at least one direction must be kept")
        return keep
