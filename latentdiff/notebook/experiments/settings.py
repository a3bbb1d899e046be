"""Settings of the experiments: all off by default, each of them a mistake."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentdiff.conditions.settings import ConditionConfig
from latentdiff.config import Section
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.networks.settings import NetworkConfig


class DataExperiment(Section):
    """What the model is given to learn from."""

    posterior: Literal["mean", "sampled"] = "mean"
    """sampled: one draw of each frame's posterior, taken once, instead of its mean; statistics and
    whitening are those of the draws. Of latents encoded without latents.keep_std the posterior is
    taken to be as wide in all frames."""

    scaling: Literal["none", "window"] = "none"
    """window: after whitening each window is stretched to -1..1 by its own minimum and maximum;
    samples are not stretched back, as nothing remembers by how much."""

    pairing: Literal["key", "shuffled"] = "key"
    """shuffled: each recording's latents get the condition of another one, of training and held-out
    files alike."""


class NetworkExperiment(Section):
    """What the network is, and what it is told."""

    output: Literal["all", "one"] = "all"
    """one: the network puts out one channel, which is taken for all of them."""

    bound: Literal["none", "sigmoid", "tanh"] = "none"
    """Function that the network's output goes through."""

    layout: Literal["frames", "flat", "flat-stretched"] = "frames"
    """flat: the network sees one channel of C T values, channel after channel, and the condition
    features once for each channel. flat-stretched: these are stretched over all values instead, so
    that they fit to no frame."""

    norm: Literal["own", "batch"] = "own"
    """batch: BatchNorm in place of every LayerNorm; outside training it uses running statistics."""

    divide_by_std: bool = False
    """The network is given z_t over its own standard deviation (sound by itself); in sampling the
    formula for the clean latents is given it too, and the scale is never put back."""

    integer_steps: bool = False
    """The network is told the schedule's t in 0..1 instead of the log-SNR; in sampling it is told
    the step's whole number, 0, 1, 2, ... up to the number of steps."""


class TrainingExperiment(Section):
    """What is trained for."""

    levels: Literal["window", "batch"] = "window"
    """batch: one noise level for all windows of a batch."""

    t_range: tuple[float, float] = (0.0, 1.0)
    """Part of the schedule's t (0: clean, 1: noise) whose levels are trained on."""

    clip_noise: float | None = Field(default=None, gt=0)
    """The noise of training is clipped to plus and minus this; null = it is not. Held-out losses
    are of noise that is not clipped."""

    square_root: bool = True
    """false: z_t = alpha^2 z_0 + sigma^2 eps in training, while sampling assumes the square roots.
    Losses are told at the log-SNR that these latents really have, which is twice the schedule's."""

    previous: int | None = Field(default=None, ge=1)
    """The network puts out the latents one of so many steps of the schedule's t cleaner, made with
    the same noise; null = it puts out what diffusion.parametrisation says. Sampled as it was with
    sampling.sampler=ddim, sampling.spacing=t and one step more than this."""

    @model_validator(mode="after")
    def _range_is_one(self) -> TrainingExperiment:
        if not 0 <= self.t_range[0] < self.t_range[1] <= 1:
            raise ValueError("t_range must be (low, high) within 0 and 1")
        return self


class SamplingExperiment(Section):
    """How samples are drawn; can change after training."""

    clamp: float | None = Field(default=None, gt=0)
    """The latents are clamped to plus and minus this after every step; null = they are not."""

    normalise: bool = False
    """Each channel of the finished latents is bent to a normal shape (power transform of Yeo and
    Johnson 2000, fitted to that sample alone) and to the variance of the training latents."""


class ExperimentConfig(Section):
    """Ways to go wrong, for reproducing the notebook this project began with and nothing else."""

    data: DataExperiment = DataExperiment()
    network: NetworkExperiment = NetworkExperiment()
    training: TrainingExperiment = TrainingExperiment()
    sampling: SamplingExperiment = SamplingExperiment()

    @property
    def on(self) -> bool:
        """Whether anything is."""
        return self != NO_EXPERIMENT

    @property
    def trained(self) -> ExperimentConfig:
        """Without what can change after training."""
        return self.model_copy(update={"sampling": NO_EXPERIMENT.sampling})

    def problems(
        self, diffusion: DiffusionConfig, network: NetworkConfig, condition: ConditionConfig
    ) -> list[str]:
        """What cannot be, a line each: of the switches among each other and with other sections."""
        mine, trained = self.network, self.training
        bare = not diffusion.precondition
        known = diffusion.parametrisation
        impossible = {
            "network.output=one: a flat layout has one channel already": (
                mine.output == "one" and mine.layout != "frames"
            ),
            "network.layout=flat-stretched needs a spectrogram to stretch: condition.kind=mel": (
                mine.layout == "flat-stretched" and not condition.follows_mel
            ),
            "network.norm=batch: the network tiny has no norms": (
                mine.norm == "batch" and network.name == "tiny"
            ),
            "network.divide_by_std needs diffusion.precondition=false and a parametrisation of "
            "which z_t is a part": (
                mine.divide_by_std and not (bare and known in ("eps", "v", "flow"))
            ),
            "data.pairing=shuffled needs a condition: condition.kind is none": (
                self.data.pairing == "shuffled" and condition.kind == "none"
            ),
            "training.t_range needs diffusion.levels.name=schedule": (
                trained.t_range != (0.0, 1.0) and diffusion.levels.name != "schedule"
            ),
            "training.square_root=false needs diffusion.precondition=false and "
            "diffusion.parametrisation=eps": (
                not trained.square_root and not (bare and known == "eps")
            ),
            "training.previous needs diffusion.precondition=false and "
            "diffusion.parametrisation=x0, whose place it takes": (
                trained.previous is not None and not (bare and known == "x0")
            ),
        }
        return [f"experiment.{what}" for what, so in impossible.items() if so]


NO_EXPERIMENT = ExperimentConfig()
"""Nothing is on."""
