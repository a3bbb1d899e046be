"""Settings of the training loop (YAML section `training`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from latentdiff.config import Section


class TrainingConfig(Section):
    """How the diffusion model is trained."""

    steps: int = Field(20_000, ge=1)
    """Optimiser steps in all. Raising it and running the same command again trains on."""
    batch: int = Field(32, ge=1)
    """Windows per step."""
    window: int = Field(128, ge=4)
    """Latent frames per training window; with RAVE v2 at 44.1 kHz 128 frames are 5.9 s.
    Files shorter than a window are padded and the padding is not trained on."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW's learning rate at the top of its schedule."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; null = 2 % of `steps`, at most 1000."""
    decay: float = Field(0.5, ge=0, le=1)
    """Share of `steps` at the end over which the learning rate falls to zero along a cosine;
    0 = it stays where it is."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient of all weights together; null = not clipped."""
    ema_halflife: int | None = Field(None, ge=1)
    """Windows seen after which a weight counts half in the averaged weights that are validated and
    sampled from; null = 2 % of `steps` x `batch`. At the start it is at most 5 % of those seen."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between validations; null = 1/40 of `steps`, within 100 and 2000."""
    validation_windows: int = Field(64, ge=1)
    """Fixed windows of the held-out files that are validated on, each at every level."""
    validation_levels: int = Field(12, ge=10)
    """Fixed log-SNR levels of validation, spread evenly over the schedule's time."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null = at every validation. One is always written at the end and
    on Ctrl-C."""
    log_every: int | None = Field(None, ge=1)
    """Steps that one line of metrics averages over; null = 1/500 of `steps`, within 10 and 100."""
    demo_samples: int = Field(4, ge=0)
    """Samples of a demo, from the same seeds each time and, for a conditioned model, following the
    same held-out files; 0 = no demos."""
    demo_seconds: float = Field(5.0, gt=0)
    """Length of each of them."""
    wandb: str | None = None
    """Weights & Biases project that metrics also go to (`pip install latentdiff[wandb]`);
    null = none. Without an account or a network set WANDB_MODE=offline."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Number format of the network's arithmetic; weights, loss and averages stay 32-bit."""
    memory_gb: float = Field(4.0, ge=0)
    """Latents up to this size (GB, whitened) are held in memory; larger ones are read from disk
    window by window."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps is not None and self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must not exceed steps ({self.steps})"
            )
        return self

    @property
    def warmup(self) -> int:
        """Steps of warm-up, null resolved."""
        return min(1000, self.steps // 50) if self.warmup_steps is None else self.warmup_steps

    @property
    def halflife(self) -> float:
        """EMA half-life in windows seen, null resolved."""
        if self.ema_halflife is not None:
            return float(self.ema_halflife)
        return max(1.0, 0.02 * self.steps * self.batch)

    @property
    def validation_interval(self) -> int:
        """Steps between validations, null resolved."""
        return self.validate_every or min(2000, max(100, self.steps // 40))

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints, null resolved."""
        return self.checkpoint_every or self.validation_interval

    @property
    def log_interval(self) -> int:
        """Steps per line of metrics, null resolved."""
        return self.log_every or min(100, max(10, self.steps // 500))
