"""Settings of the experiments: deliberate mistakes, all off by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentdiff.conditions.settings import ConditionConfig
from latentdiff.config import Section, Values
from latentdiff.diffusion.settings import DiffusionConfig
from latentdiff.errors import UserError
from latentdiff.networks.settings import NetworkConfig


class DataExperiment(Section):
    """Mistakes in the training data."""

    posterior: Literal["mean", "sampled"] = "mean"
    """sampled: one draw from each frame's posterior, made once, instead of its mean; statistics and
    whitening are those of the draws. For latents encoded without latents.keep_std, the posterior is
    assumed to be equally wide in all frames."""

    scaling: Literal["none", "window"] = "none"
    """window: after whitening, each window is scaled to -1..1 by its own minimum and maximum;
    samples are not scaled back, as the factors are not stored."""

    pairing: Literal["key", "shuffled"] = "key"
    """shuffled: each recording's latents get the condition of another recording, in training and
    held-out files alike."""


class NetworkExperiment(Section):
    """Mistakes in the network and its inputs."""

    output: Literal["all", "one"] = "all"
    """one: the first output channel is used for all of them."""

    bound: Literal["none", "sigmoid", "tanh"] = "none"
    """Function applied to the network's output."""

    layout: Literal["frames", "flat", "flat-stretched"] = "frames"
    """flat: the network gets one channel of C T values, channel after channel, and the condition
    features repeated for each channel. flat-stretched: the features are stretched over all values
    instead, so that they match no frame."""

    norm: Literal["own", "batch"] = "own"
    """batch: BatchNorm instead of every LayerNorm; outside training it uses running statistics."""

    divide_by_std: bool = False
    """The network gets z_t divided by its standard deviation (no mistake by itself); in sampling
    the formula for the clean latents gets it too, and the scale is never restored."""

    integer_steps: bool = False
    """The network gets the schedule's t in 0..1 instead of the log-SNR; in sampling it gets the
    number of the step, 0, 1, 2, ... up to the number of steps."""


class TrainingExperiment(Section):
    """Mistakes in the training task."""

    levels: Literal["window", "batch"] = "window"
    """batch: one noise level for all windows of a batch."""

    t_range: tuple[float, float] = (0.0, 1.0)
    """Range of the schedule's t (0: clean, 1: noise) that is trained on."""

    clip_noise: float | None = Field(default=None, gt=0)
    """The noise of training is clipped to plus and minus this; null = not clipped. Held-out losses
    use unclipped noise."""

    square_root: bool = True
    """false: z_t = alpha^2 z_0 + sigma^2 eps in training, while sampling assumes the square roots.
    Losses are reported at the true log-SNR of these latents, twice the schedule's."""

    previous: int | None = Field(default=None, ge=1)
    """The network predicts the latents one step cleaner, of this many steps of the schedule's t,
    with the same noise; null = it predicts what diffusion.parametrisation names. The notebook's
    sampling: sampling.sampler=ddim, sampling.spacing=t and one step more than this."""

    @model_validator(mode="after")
    def _range_is_one(self) -> TrainingExperiment:
        if not 0 <= self.t_range[0] < self.t_range[1] <= 1:
            raise ValueError("t_range must be (low, high) within 0 and 1")
        return self


class SamplingExperiment(Section):
    """Mistakes in sampling; can change after training."""

    clamp: float | None = Field(default=None, gt=0)
    """The latents are clamped to plus and minus this after every step; null = not clamped."""

    normalise: bool = False
    """Each channel of the finished latents is made normally distributed (power transform of Yeo and
    Johnson 2000, fitted to that sample alone), with the variance of the training latents."""


class ExperimentConfig(Section):
    """Deliberate mistakes, only for reproducing the notebook that this project began with."""

    data: DataExperiment = DataExperiment()
    network: NetworkExperiment = NetworkExperiment()
    training: TrainingExperiment = TrainingExperiment()
    sampling: SamplingExperiment = SamplingExperiment()

    @property
    def on(self) -> bool:
        """Whether any mistake is switched on."""
        return self != NO_EXPERIMENT

    @property
    def trained(self) -> ExperimentConfig:
        """The settings that affect training, without those of sampling, which can change later."""
        return self.model_copy(update={"sampling": NO_EXPERIMENT.sampling})

    def with_sampling_of(self, other: ExperimentConfig, model: str) -> ExperimentConfig:
        """The mistakes of the trained `model`, but those in sampling taken from `other`.

        Raises UserError for mistakes in training that the model was not trained with.
        """
        if other.trained.on and other.trained != self.trained:
            raise UserError(
                f"{model} was not trained with these settings of `experiment`",
                why="only those of experiment.sampling can change after training",
                do_this="drop the others, or train another run with them.",
            )
        return self.model_copy(update={"sampling": other.sampling})

    def to_section(self) -> Values:
        """The section by its name, as run.json holds it; empty if no mistake is switched on."""
        return {"experiment": self.model_dump(mode="json")} if self.on else {}

    def problems(
        self, diffusion: DiffusionConfig, network: NetworkConfig, condition: ConditionConfig
    ) -> list[str]:
        """Contradictions within the section and with other sections, one line each."""
        mine, trained = self.network, self.training
        bare = not diffusion.precondition
        parametrisation = diffusion.parametrisation
        impossible = {
            "network.output=one: a flat layout has one channel already": (
                mine.output == "one" and mine.layout != "frames"
            ),
            "network.layout=flat-stretched needs features to stretch: condition.kinds=mel": (
                mine.layout == "flat-stretched" and set(condition.chosen) <= {"label"}
            ),
            "network.norm=batch: the network tiny has no norms": (
                mine.norm == "batch" and network.name == "tiny"
            ),
            "network.divide_by_std needs diffusion.precondition=false and "
            "diffusion.parametrisation=eps, v or flow": (
                mine.divide_by_std and not (bare and parametrisation in ("eps", "v", "flow"))
            ),
            # A style is taken from the latents of the window itself, so it cannot be another's.
            "data.pairing=shuffled needs a condition that encode stores: condition.kinds=mel": (
                self.data.pairing == "shuffled" and set(condition.chosen) <= {"style"}
            ),
            "training.t_range needs diffusion.levels.name=schedule": (
                trained.t_range != (0.0, 1.0) and diffusion.levels.name != "schedule"
            ),
            "training.square_root=false needs diffusion.precondition=false and "
            "diffusion.parametrisation=eps": (
                not trained.square_root and not (bare and parametrisation == "eps")
            ),
            "training.previous needs diffusion.precondition=false and "
            "diffusion.parametrisation=x0, which it replaces": (
                trained.previous is not None and not (bare and parametrisation == "x0")
            ),
        }
        return [f"experiment.{what}" for what, true in impossible.items() if true]


NO_EXPERIMENT = ExperimentConfig()
"""No mistake is switched on."""

SAMPLING_KEYS = tuple(f"experiment.sampling.{name}" for name in SamplingExperiment.model_fields)
"""Settings that can change after training."""
