"""Settings of encoding, and of the directions that the diffusion model uses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictFloat, StrictInt, field_validator

from latentdiff.config import Section

Scaling = Literal["unit", "posterior", "global"]


class LatentConfig(Section):
    """How audio is encoded, and which directions of the latents are kept."""

    keep: Literal["auto", "all"] | StrictInt | StrictFloat = "auto"
    """Principal directions that the diffusion model sees. auto: those that carry more than 0.1 bit
    per frame, by the variance of the latents over that of the encoder's posterior (if that is
    unknown: 99 % of the variance). all: every direction that varies at all. A whole number: that
    many. A fraction between 0 and 1: as many as hold that share of the variance."""

    scaling: Scaling = "unit"
    """How much each kept direction counts in the loss. unit: all the same, with variance 1.
    posterior: by its variance over that of the encoder's posterior. global: by its variance. The
    mean variance is 1 in each case."""

    keep_std: bool = False
    """Also store the posterior's standard deviation; doubles the disk space."""

    hop: int = Field(default=2048, ge=1)
    """Audio samples per latent frame, at data.sample_rate, of a folder of .npy files that does not
    name its codec; 2048 is RAVE v2's. Latents of `encode` record their own."""

    chunk_seconds: float = Field(default=20.0, gt=0)
    """Seconds of audio that the codec processes at once; longer files are processed in overlapping
    chunks, with the same result. Larger is faster and takes more memory."""

    batch: int = Field(default=1, ge=1)
    """Chunks encoded or decoded together, short files included. 1 is fastest on a CPU, whose caches
    hold no more; larger is faster on a GPU and takes more memory."""

    @field_validator("keep", mode="before")
    @classmethod
    def _keep_is_possible(cls, keep: object) -> object:
        if keep in ("auto", "all"):
            return keep
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            raise ValueError("must be auto, all, a whole number or a fraction such as 0.99")
        if isinstance(keep, float) and not 0 < keep < 1:
            raise ValueError("a share of the variance must be above 0 and below 1")
        if keep < 1 and isinstance(keep, int):
            raise ValueError("at least one direction must be kept")
        return keep
