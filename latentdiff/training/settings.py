"""Settings of the training loop (YAML section `training`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from latentdiff.config import Section

Precision = Literal["32", "bf16-mixed", "16-mixed"]

VALIDATION = ("validation_windows", "validation_levels")
"""Settings of training that decide what a validation measures."""


class TrainingConfig(Section):
    """How the diffusion model is trained."""

    steps: int | None = Field(20_000, ge=1)
    """Total optimiser steps. Raise it and run the same command again to train on.
    null = as many as `hours` allows."""
    hours: float | None = Field(None, gt=0)
    """Total wall-clock hours, over all attempts. Training ends when steps or hours are used up,
    whichever is first, and the learning rate falls towards that end. null = no limit."""
    batch: int = Field(32, ge=1)
    """Windows per step, over all devices."""
    accumulate: int = Field(1, ge=1)
    """Parts that a batch is split into and computed one after another: less memory, same result."""
    window: int = Field(128, ge=4)
    """Latent frames per training window; 128 frames of RAVE v2 at 44.1 kHz are 5.9 s.
    Shorter files are padded, and the padding is not trained on."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's peak learning rate."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; null = 2 % of the budget, at most 1000."""
    decay: float = Field(0.5, ge=0, le=1)
    """Share of the budget, at its end, over which the learning rate falls to zero along a cosine;
    0 = it stays constant."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; null = not clipped."""
    ema_halflives: tuple[int, ...] | None = Field(None, min_length=1)
    """Half-lives, in windows, of the averaged weights (EMA) that are validated and sampled from.
    Each gets an average of its own; all are validated, and the best one is used. null = one
    average, of 2 % of the windows of the whole budget. A half-life is capped at 5 % of the windows
    seen so far."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between validations; null = 1/40 of the budget, between 100 and 2000."""
    validation_latents: str | None = None
    """Folder of latents to validate on, beside one of latents to train on that is then trained on
    as a whole; `--validation` on the command line sets it. null = the latents have a split, and of
    a plain folder of .npy files a tenth is held out."""
    validation_windows: int = Field(64, ge=1)
    """Fixed windows of the held-out files to validate on, each at every level."""
    validation_levels: int = Field(12, ge=10)
    """Fixed log-SNR levels to validate at, spread evenly over the schedule's time."""
    leaks: Literal["allow"] | None = None
    """null = it is an error if a held-out recording is also in the training files. allow = it is a
    warning: skill, scores and the choice of the best weights then reward memorising."""
    patience: int | None = Field(None, ge=1)
    """Training ends early after this many validations without a lower loss; null = never."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null = one at every validation. One is also written at the end and
    on Ctrl-C."""
    keep_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that are kept besides `last` and `best`; null = none are."""
    keep_last: int | None = Field(None, ge=1)
    """How many of these to keep, the newest ones; null = all."""
    log_every: int | None = Field(None, ge=1)
    """Steps that a line of metrics averages over; null = 1/500 of the budget, between 10 and
    100."""
    demo_every: int | None = Field(None, ge=1)
    """Steps between demos, the first at step 0; null = after validations, but never more than a few
    percent of the time."""
    demo_samples: int = Field(4, ge=0)
    """Samples per demo, always from the same seeds and, for a conditioned model, following the same
    held-out files; 0 = no demos."""
    demo_seconds: float = Field(5.0, gt=0)
    """Length of each sample."""
    calibration_samples: int = Field(128, ge=0)
    """Samples to draw when training ends, to find the autoguidance that brings them closest to as
    many training windows; 0 = none, and `sampling.autoguidance: auto` is 1. None are drawn for a
    distilled model, which has learned the autoguidance of its teacher."""
    wandb: str | None = None
    """Weights & Biases project to log to as well (`pip install latentdiff[wandb]`); null = none.
    Without an account or a network, set WANDB_MODE=offline."""
    precision: Precision = "32"
    """Number format of the network's computations; weights, loss and averages stay 32-bit."""
    compile: bool = False
    """Compile the network with torch.compile; on failure, warns and runs uncompiled."""
    memory_gb: float = Field(4.0, ge=0)
    """Whitened latents up to this size (GB) are held in memory; larger ones are read from disk
    window by window."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.steps is None and self.hours is None:
            raise ValueError("set steps, or hours, or both")
        if self.steps is not None and (self.warmup_steps or 0) > self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must not exceed steps ({self.steps})"
            )
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate ({self.accumulate}) must not exceed batch ({self.batch})")
        if self.ema_halflives is not None and min(self.ema_halflives) < 1:
            raise ValueError("ema_halflives must be 1 or more")
        return self
