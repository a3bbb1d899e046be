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
    """Optimiser steps in all. Raising it and running the same command again trains on.
    null = as many as `hours` allows."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours in all, those of former attempts included; training ends with whichever of
    steps and hours ends first, and the learning rate falls towards that end. null = no limit."""
    batch: int = Field(32, ge=1)
    """Windows per step, over all devices together."""
    accumulate: int = Field(1, ge=1)
    """Parts that a batch is computed in, one after another: less memory, the same result."""
    window: int = Field(128, ge=4)
    """Latent frames per training window; with RAVE v2 at 44.1 kHz 128 frames are 5.9 s.
    Files shorter than a window are padded and the padding is not trained on."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's learning rate at the top of its schedule."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; null = 2 % of the budget, at most 1000."""
    decay: float = Field(0.5, ge=0, le=1)
    """Share of the budget at the end over which the learning rate falls to zero along a cosine;
    0 = it stays where it is."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient of all weights together; null = not clipped."""
    ema_halflives: tuple[int, ...] | None = Field(None, min_length=1)
    """Windows seen after which a weight counts half in the averaged weights that are validated and
    sampled from; null = one average, of 2 % of the windows of the whole budget. Several are kept
    and validated side by side, and the best of them wins. At the start a half-life is at most 5 %
    of the windows seen."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between validations; null = 1/40 of the budget, within 100 and 2000."""
    validation_windows: int = Field(64, ge=1)
    """Fixed windows of the held-out files that are validated on, each at every level."""
    validation_levels: int = Field(12, ge=10)
    """Fixed log-SNR levels of validation, spread evenly over the schedule's time."""
    patience: int | None = Field(None, ge=1)
    """Validations without a new best after which training ends early; null = it does not."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null = at every validation. One is always written at the end and
    on Ctrl-C."""
    keep_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that stay beside `last` and `best`; null = none stays."""
    keep_last: int | None = Field(None, ge=1)
    """How many of those stay, the newest; null = all."""
    log_every: int | None = Field(None, ge=1)
    """Steps that one line of metrics averages over; null = 1/500 of the budget, within 10 and
    100."""
    demo_every: int | None = Field(None, ge=1)
    """Steps between demos, the first at step 0; null = after validations, as long as demos take no
    more than a few percent of the time."""
    demo_samples: int = Field(4, ge=0)
    """Samples of a demo, from the same seeds each time and, for a conditioned model, following the
    same held-out files; 0 = no demos."""
    demo_seconds: float = Field(5.0, gt=0)
    """Length of each of them."""
    calibration_samples: int = Field(128, ge=0)
    """Samples drawn when training ends, beside as many training windows, to find the autoguidance
    that brings them nearest to these; 0 = none are, and `sampling.autoguidance: auto` is 1."""
    wandb: str | None = None
    """Weights & Biases project that metrics also go to (`pip install latentdiff[wandb]`);
    null = none. Without an account or a network set WANDB_MODE=offline."""
    precision: Precision = "32"
    """Number format of the network's arithmetic; weights, loss and averages stay 32-bit."""
    compile: bool = False
    """Compile the network with torch.compile; where that fails, it is said and left."""
    memory_gb: float = Field(4.0, ge=0)
    """Latents up to this size (GB, whitened) are held in memory; larger ones are read from disk
    window by window."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.steps is None and self.hours is None:
            raise ValueError("give steps, or hours, or both")
        if self.steps is not None and (self.warmup_steps or 0) > self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must not exceed steps ({self.steps})"
            )
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate ({self.accumulate}) must not exceed batch ({self.batch})")
        if self.ema_halflives is not None and min(self.ema_halflives) < 1:
            raise ValueError("ema_halflives must be 1 or more")
        return self
