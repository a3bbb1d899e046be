"""A RAVE from our settings: gin configs, bindings and the config.gin that describes all of it.

Everything here runs inside `compat.isolated_gin()`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.gin_check import check_gin_imports
from latentdiff.rave.settings import RaveConfig, shipped_configs

if TYPE_CHECKING:
    from rave import RAVE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Lengths that are scaled to the budget when a run starts and then stay as they are."""

    phase_1_steps: int
    """Steps before the discriminator joins."""
    beta_warmup_steps: int
    """Steps in which the weight of the regularisation rises."""

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Assembly:
    """A model, ready to train, and what it was made of."""

    model: RAVE
    beta_warmup: Any
    """RAVE's callback that raises beta."""
    text: str
    """Every binding of both phases, as config.gin holds them."""
    schedule: Schedule
    hop: int
    """Audio samples per latent frame."""


def assemble(
    config: RaveConfig, sample_rate: int, channels: int, schedule: Schedule | None = None
) -> Assembly:
    """Build RAVE for audio of `channels` at `sample_rate` Hz.

    `schedule`: that of the run to be continued; None plans a new one for `config.steps`.
    Raises UserError where RAVE cannot be built from these settings.
    """
    import gin
    import rave

    _parse(config, sample_rate, channels)
    if schedule is None:
        schedule = _plan(config)
    gin.bind_parameter("RAVE.phase_1_duration", schedule.phase_1_steps)
    gin.bind_parameter("BetaWarmupCallback.warmup_len", schedule.beta_warmup_steps)
    _override(config.overrides)
    # Reading values above counted as using them; config.gin shall list what the model uses.
    gin.config._OPERATIVE_CONFIG.clear()
    with compat.quiet():
        try:
            gin.finalize()
            model, beta_warmup = rave.RAVE(), rave.BetaWarmupCallback()
        except (ValueError, TypeError, RuntimeError, AssertionError, NameError) as error:
            raise _cannot_build(config, str(error).strip().splitlines()[0]) from error
    _rehearse_phase_2(model)
    text = gin.operative_config_str()
    return Assembly(model, beta_warmup, text, schedule, _checked_hop(model, config))


def _parse(config: RaveConfig, sample_rate: int, channels: int) -> None:
    """The named configs, then the YAML's own names for what they leave open."""
    import gin

    for name in config.configs:
        gin.parse_config_file(str(shipped_configs()[name]))
    macros: dict[str, Any] = {
        "SAMPLING_RATE": sample_rate,
        "CAPACITY": config.capacity,
        "LATENT_SIZE": config.latent_size,
        "N_BAND": config.n_band,
        "RATIOS": config.ratios,
    }
    if config.ratios is not None:
        # RAVE pairs ratios and dilations with zip, which drops what has no partner.
        macros["DILATIONS"] = [[1, 3, 9]] * (len(config.ratios) - 1) + [[1, 3]]
    gin.parse_config([f"{name} = {value}" for name, value in macros.items() if value is not None])
    # Passed to the constructor instead, it would be missing from config.gin.
    gin.bind_parameter("RAVE.n_channels", channels)
    if config.beta is not None:
        initial = min(float(_value("BetaWarmupCallback.initial_value")), config.beta)
        gin.bind_parameter("BetaWarmupCallback.initial_value", initial)
        gin.bind_parameter("BetaWarmupCallback.target_value", config.beta)
    if config.feature_matching is not None:
        # RAVE multiplies this loss by its weight twice.
        root = math.sqrt(config.feature_matching)
        weights = {**_value("RAVE.weights"), "feature_matching": root}
        gin.bind_parameter("RAVE.weights", weights)


def _value(name: str) -> Any:
    """The value bound to a parameter, through a macro if need be."""
    import gin

    value = gin.query_parameter(name)
    return value.scoped_configurable_fn() if hasattr(value, "scoped_configurable_fn") else value


def _macro(name: str) -> Any:
    return _value(f"{name}/gin.macro.value")


def _plan(config: RaveConfig) -> Schedule:
    phase_1 = config.phase_1_steps
    if phase_1 is None:
        phase_1 = max(1, min(config.steps // 2, int(_value("RAVE.phase_1_duration"))))
    warmup = config.beta_warmup_steps
    if warmup is None:
        own = int(_value("BetaWarmupCallback.warmup_len"))
        warmup = max(1, min(phase_1, config.steps) // 5)
        warmup = min(warmup, own)
    return Schedule(phase_1, warmup)


def _override(overrides: list[str]) -> None:
    import gin

    for line in overrides:
        check_gin_imports(line, source=f"rave.overrides: '{line}'")
        try:
            gin.parse_config(line)
        except (ValueError, SyntaxError, NameError, AttributeError) as error:
            raise UserError(
                f"rave.overrides: RAVE does not take '{line}'",
                why=str(error).strip().splitlines()[0],
                do_this="write Name.parameter=value with a name that config.gin shows, for "
                "example RAVE.update_discriminator_every=2.",
            ) from error


def _rehearse_phase_2(model: RAVE) -> None:
    """Call what only phase 2 calls: gin lists in config.gin what has been called, no more."""
    features = torch.ones(1, 1, 2)
    model.feature_matching_fun(features, features)
    model.gan_loss(features, features)


def _checked_hop(model: RAVE, config: RaveConfig) -> int:
    """Samples per latent frame, having seen that encoder and decoder agree on it."""
    hop = int(_macro("N_BAND")) * math.prod(_macro("RATIOS"))
    frames = max(8, math.ceil(2**14 / hop)) | 1  # odd: v1's noise needs whole blocks of its own
    audio = torch.zeros(1, model.n_channels, frames * hop)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        latents = model.encode(audio)
        decoded = model.decode(model.encoder.reparametrize(latents)[0])
    model.train()
    if latents.shape[-1] != frames or decoded.shape[-1] != frames * hop:
        raise _cannot_build(
            config,
            f"{frames * hop} samples become {latents.shape[-1]} latent frames and "
            f"{decoded.shape[-1]} samples again; n_band and ratios make {hop} samples a frame",
        )
    return hop


def _cannot_build(config: RaveConfig, why: str) -> UserError:
    return UserError(
        f"RAVE cannot be built from configs {config.configs} with these settings",
        why=why,
        do_this="take back capacity, latent_size, ratios, n_band or overrides one by one; "
        "v2_nopqmf has fixed ratios.",
    )


def receptive_field(model: RAVE) -> tuple[int, int]:
    """RAVE's own measure (left, right) in samples, as its loss crops by it.

    With several channels RAVE measures the whole span in both numbers and divides by the channels
    when it crops, which comes to the same. The model's gradients and mode are left as found.
    """
    from rave import core

    training = model.training
    with compat.quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, right = core.get_rave_receptive_field(model, n_channels=model.n_channels)
    model.train(training)
    model.zero_grad(set_to_none=True)
    return left, right


def smallest_signal(model: RAVE, field: tuple[int, int], hop: int) -> int:
    """The shortest crop, a multiple of `hop`, that leaves the loss's longest STFT enough.

    RAVE cuts the receptive field off both ends of each band before the multiband loss; a centred
    STFT of size S then reflects S / 2 samples, so more than that must be left.
    """
    bands = model.pqmf.n_band
    rows = bands * model.n_channels
    cut = field[0] // rows + math.ceil(field[1] / rows) if model.valid_signal_crop else 0
    longest = max(model.multiband_audio_distance.multiscale_stft.scales)
    return math.ceil(bands * (longest // 2 + 1 + cut) / hop) * hop
