"""Settings of the noise schedule, the denoiser, the loss and the samplers."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from latentdiff.config import Section, catalogue
from latentdiff.diffusion.methods import METHODS, SamplerOptions, Variance
from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.errors import UserError

Parametrisation = Literal["v", "eps", "x0", "flow", "regression"]
LevelsName = Literal["schedule", "logit-normal", "edm", "adaptive"]
Weighting = Literal["uniform", "min-snr", "sigmoid", "edm"]
LossKind = Literal["mse", "l1", "huber"]
Spacing = Literal["logistic", "logsnr", "t", "karras"]

if TYPE_CHECKING:
    ScheduleName = str
    Sampler = str
else:
    # The registries are the only lists of names; a type checker cannot look into them.
    ScheduleName = Literal[tuple(SCHEDULES)]
    Sampler = Literal[tuple(METHODS)]


class ScheduleConfig(Section):
    """Which log-SNR = ln(alpha^2 / sigma^2) training and sampling visit, and how often."""

    method_key = "name"

    name: ScheduleName = Field(
        default="cosine",
        description=catalogue({name: entry.summary for name, entry in SCHEDULES.items()}),
    )

    logsnr_max: float = Field(default=8.0, gt=0, le=20)
    """Log-SNR of the cleanest level of a continuous schedule (8: noise 35 dB below the latents)."""

    logsnr_min: float = Field(default=-10.0, lt=0, ge=-20)
    """Log-SNR of its noisiest level (-10: latents 43 dB below the noise)."""

    shift: float = Field(default=0.0, ge=-10, le=10)
    """Added to the log-SNR of a continuous schedule, between the two limits; negative values spend
    more of the training on noisy levels."""

    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    """First beta of a chain of your own."""

    beta_end: float = Field(default=0.02, gt=0, le=1)
    """Last beta; 1 ends in pure noise."""

    beta_steps: int = Field(default=1000, ge=2)
    """Number of betas; they are equally spaced from the first to the last."""

    def read_by_method(self) -> frozenset[str]:
        return SCHEDULES[self.name].reads

    @model_validator(mode="after")
    def _limits_leave_room(self) -> ScheduleConfig:
        if not self.logsnr_min < self.shift < self.logsnr_max:
            raise ValueError("shift must lie between logsnr_min and logsnr_max")
        return self


class LevelsConfig(Section):
    """How often training visits each noise level between the schedule's limits."""

    name: LevelsName = "schedule"
    """schedule: as often as the schedule itself. logit-normal, edm: log-SNR is normal, truncated to
    the schedule's limits, as in Stable Diffusion 3 and EDM. adaptive: in proportion to the loss,
    weighted so that the objective stays that of the schedule."""

    mean: float | None = None
    """logit-normal: mean of logit t on the straight path, null: 0. edm: mean of ln(sigma / alpha),
    null: -0.51, which is EDM's -1.2 for data of unit variance. Larger is noisier. Not read by the
    others."""

    std: float | None = Field(default=None, gt=0)
    """Standard deviation of the same quantity. null: 1 for logit-normal, 1.2 for edm."""

    @model_validator(mode="after")
    def _moments_are_used(self) -> LevelsConfig:
        given = self.mean is not None or self.std is not None
        if given and self.name not in ("logit-normal", "edm"):
            raise ValueError(f"mean and std are not read by levels named {self.name}")
        return self


class DiffusionConfig(Section):
    """The training objective of the denoiser."""

    method_key = "loss"

    parametrisation: Parametrisation = "v"
    """The quantity in which the loss is measured: velocity, noise, clean latents, or the flow from
    latents to noise. regression: no diffusion; one call estimates the latents from their condition
    alone, without schedule and levels. That is their mean and blurred, but a yardstick."""

    precondition: bool = True
    """Add the network's output to the best estimate that knows only the variance of each channel,
    so that training starts at skill 0 instead of below. false: the network predicts the quantity
    named by `parametrisation` itself, as in the papers."""

    schedule: ScheduleConfig = ScheduleConfig()
    """Noise levels."""

    levels: LevelsConfig = LevelsConfig()
    """How often training visits each of them."""

    weighting: Weighting = "uniform"
    """Weight of a noise level in the loss, beyond how often the schedule visits it. uniform: 1.
    min-snr: min(SNR, 5) on the clean latents. sigmoid: sigmoid(-log-SNR) on the noise.
    edm: the velocity weighted uniformly, whatever the parametrisation."""

    loss: LossKind = "mse"
    """mse, l1, or huber (quadratic below huber_delta, linear above)."""

    huber_delta: float = Field(default=1.0, gt=0)
    """Error at which huber turns linear, in units of the parametrisation's quantity."""

    @classmethod
    def method_fields(cls) -> frozenset[str]:
        return frozenset({"huber_delta"})

    def read_by_method(self) -> frozenset[str]:
        return self.method_fields() if self.loss == "huber" else frozenset()

    @model_validator(mode="after")
    def _regression_has_no_levels(self) -> DiffusionConfig:
        if self.parametrisation == "regression" and self.weighting != "uniform":
            raise ValueError("regression has no noise levels to weight: weighting must be uniform")
        return self


class DistillConfig(Section):
    """A model of few network calls that is trained to do what another one does in many; read by
    `train-diffusion --distill`."""

    levels: tuple[float, ...] = Field((-6.9, -1.5), min_length=1)
    """Rising log-SNRs at which the distilled model makes its network calls, one at each. The first
    call starts from pure noise; each leads to the next level, the last to clean latents."""

    teacher_calls: int = Field(4, ge=2)
    """Network calls of the teacher in place of each of these."""

    @model_validator(mode="after")
    def _levels_rise(self) -> DistillConfig:
        if any(a >= b for a, b in pairwise(self.levels)):
            raise ValueError("levels must rise")
        return self


class SamplingConfig(Section):
    """How new latents are sampled; everything here can change after training."""

    method_key = "sampler"

    sampler: Sampler = Field(
        default="dpmpp-2m",
        description=catalogue({name: method.summary for name, method in METHODS.items()}),
    )

    steps: int = Field(default=8, ge=1)
    """Steps from pure noise to latents. A distilled model makes its own calls, and refuses a
    sampler, steps or a spacing that are neither the default nor its own."""

    spacing: Spacing = "logistic"
    """logistic: most steps where coarse structure is decided (log-SNR -6 to 0); if there are few,
    none at the ends, where a step changes next to nothing. logsnr: equally spaced in log-SNR. t: in
    the schedule's t. karras: that of Karras et al. with rho 7."""

    eta: float = Field(default=0.0, ge=0, le=1)
    """Share of fresh noise in each step of ddim. 0: the ODE; 1: ancestral."""

    variance: Variance = "posterior"
    """Variance of the fresh noise of ddpm: its beta-tilde (posterior) or its beta."""

    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free guidance. 1: none; above: follow the condition more closely than the
    training data does; 0: ignore the condition. Needs condition.dropout > 0 in training."""

    guidance_interval: tuple[float, float] | None = None
    """Log-SNR range (low, high) in which guidance acts. null: everywhere."""

    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    """How far the level of guided latents is pulled back to that of unguided ones, 0..1."""

    autoguidance: Literal["auto"] | float = "auto"
    """Extrapolates the network away from a denoiser that knows only the variance of each channel.
    1: none; above: samples are louder and differ more from each other. auto: the value that brings
    samples nearest to the training latents, measured at the end of training."""

    autoguidance_interval: tuple[float, float] = (-6.0, 0.0)
    """Log-SNR range (low, high) in which autoguidance acts."""

    seconds: float = Field(default=10.0, gt=0)
    """Length of a sample in seconds, unless --seconds or a condition sets it."""

    batch: int = Field(default=16, ge=1)
    """Samples computed together; their results do not depend on it."""

    fill: Literal["mean", "noise"] = "mean"
    """Latent directions outside the model: set to their mean, or to unit noise as in an exported
    RAVE."""

    @classmethod
    def method_fields(cls) -> frozenset[str]:
        return frozenset(field.name for field in fields(SamplerOptions))

    def read_by_method(self) -> frozenset[str]:
        return METHODS[self.sampler].reads

    def check_guidance(self, conditioned: bool) -> None:
        """Raises UserError for guidance of samples that have no condition: it would do nothing."""
        if self.guidance != 1 and not conditioned:
            raise UserError(
                f"sampling.guidance={self.guidance:g} has no effect",
                why="guidance strengthens a condition, and these samples have none",
                do_this="drop sampling.guidance; or train with condition.kinds and give a "
                "condition to `latentdiff sample`.",
            )

    @model_validator(mode="after")
    def _can_be_met(self) -> SamplingConfig:
        if self.guidance_interval and self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError("guidance_interval must be (low, high) in log-SNR")
        if self.autoguidance_interval[0] >= self.autoguidance_interval[1]:
            raise ValueError("autoguidance_interval must be (low, high) in log-SNR")
        if self.autoguidance != "auto" and not self.autoguidance >= 0:
            raise ValueError("autoguidance must be 0 or more, or auto")
        return self
