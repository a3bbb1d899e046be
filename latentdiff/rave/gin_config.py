"""A RAVE from our settings: gin configs, bindings, and the config.gin that describes all of it.

Everything here runs inside `compat.isolated_gin()`.

Shapes: N audio samples.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.gin_check import check_gin_imports, read_gin
from latentdiff.rave.net import hop_of
from latentdiff.rave.result import RaveSchedule
from latentdiff.rave.settings import RaveConfig, shipped_configs

if TYPE_CHECKING:
    from rave import RAVE, BetaWarmupCallback

log = logging.getLogger(__name__)

BETA_WARMUP = 0.2
"""Share of phase 1 over which beta rises, unless the settings say."""


@dataclass(frozen=True)
class Assembly:
    """A model, ready to train, and what it was made of."""

    model: RAVE
    beta_warmup: BetaWarmupCallback
    """Raises beta during its warm-up."""
    text: str
    """Every binding of both phases, as config.gin holds them."""
    schedule: RaveSchedule
    hop: int
    """Audio samples per latent frame."""


def assemble(
    config: RaveConfig,
    sample_rate: int,
    channels: int,
    schedule: RaveSchedule | None = None,
    gin_file: Path | None = None,
    device: str = "cpu",
    keep_lengths: bool = False,
) -> Assembly:
    """Build RAVE for audio of `channels` at `sample_rate` Hz.

    `schedule`: that of the run to be continued; None plans a new one for training on `device` (cpu,
    cuda or mps).
    `gin_file`: the config.gin of the run that provides the weights. It decides the architecture;
    settings that are not None still override it.
    `keep_lengths`: without a `schedule`, the lengths of phase 1 and of beta's warm-up are those of
    `gin_file`, for its training goes on.
    Raises UserError where RAVE cannot be built from these settings.
    """
    import gin
    import rave

    for name in config.configs:
        gin.parse_config_file(str(shipped_configs()[name]))
    # Before `gin_file`, whose own lengths may have been scaled to another budget.
    schedule = schedule or _plan(config, device)
    if gin_file is not None:
        _parse_run(gin_file, sample_rate)
        schedule = _lengths() if keep_lengths else schedule
    _bind_settings(config, sample_rate, channels)
    # What the clock decides keeps RAVE's own value, see `clock.ClockedSchedule`.
    if schedule.phase_1_steps is not None:
        gin.bind_parameter("RAVE.phase_1_duration", schedule.phase_1_steps)
    if schedule.beta_warmup_steps is not None:
        gin.bind_parameter("BetaWarmupCallback.warmup_len", schedule.beta_warmup_steps)
    _override(config.overrides)
    # gin lists a parameter as operative once it is queried; config.gin must list what RAVE uses.
    gin.config._OPERATIVE_CONFIG.clear()
    with compat.quiet():
        try:
            gin.finalize()
            model, beta_warmup = rave.RAVE(), rave.BetaWarmupCallback()
        except (ValueError, TypeError, RuntimeError, AssertionError, NameError) as error:
            raise _cannot_build(config, str(error).strip().splitlines()[0]) from error
    _rehearse_phase_2(model)
    text = gin.operative_config_str()
    hop = _checked_hop(model, config, None if gin_file else _hop_of_settings())
    return Assembly(model, beta_warmup, text, schedule, hop)


def _parse_run(path: Path, sample_rate: int) -> None:
    """Apply a run's config.gin over the named configs.

    The named configs stay underneath because `rave train` writes config.gin before its first step:
    parameters that are first used in phase 2, such as those of the feature matching, are not in it.
    """
    import gin

    text = read_gin(path)
    try:
        gin.parse_config(text)
        theirs = int(_value("RAVE.sampling_rate"))
    except (ValueError, TypeError, SyntaxError, AttributeError, NameError) as error:
        raise UserError(
            f"RAVE does not accept {path}",
            why=str(error).strip().splitlines()[0],
            do_this="use the config.gin that acids-rave 2.3 wrote for these weights.",
        ) from error
    if theirs != sample_rate:
        log.warning(
            "the weights were trained at %d Hz and the dataset has %d Hz: expect a longer training",
            *(theirs, sample_rate),
        )


def _lengths() -> RaveSchedule:
    """What is bound now."""
    names = ("RAVE.phase_1_duration", "BetaWarmupCallback.warmup_len")
    phase_1, warmup = (int(_value(name)) for name in names)
    return RaveSchedule(phase_1, warmup)


def _bind_settings(config: RaveConfig, sample_rate: int, channels: int) -> None:
    """Our names for what RAVE's configs leave open or should have changed."""
    import gin

    macros: dict[str, object] = {
        "SAMPLING_RATE": sample_rate,
        "CAPACITY": config.capacity,
        "LATENT_SIZE": config.latent_size,
        "N_BAND": config.n_band,
        "RATIOS": config.ratios,
    }
    if config.ratios is not None:
        # RAVE zips ratios with dilations, and zip drops what has no partner.
        macros["DILATIONS"] = [[1, 3, 9]] * (len(config.ratios) - 1) + [[1, 3]]
    gin.parse_config([f"{name} = {value}" for name, value in macros.items() if value is not None])
    # Passed to the constructor instead, it would be missing from config.gin.
    gin.bind_parameter("RAVE.n_channels", channels)
    if config.beta is not None:
        # The warm-up must rise, also to a beta below the value that it starts from.
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


def _plan(config: RaveConfig, device: str) -> RaveSchedule:
    """The lengths for a budget in steps; for one in hours the clock decides them later."""
    share = config.share_of_phase_2(device)
    phase_1, warmup = config.phase_1_steps, config.beta_warmup_steps
    if phase_1 is None and config.steps is not None and config.hours is None:
        phase_1 = max(1, int(config.steps * (1 - share)))
    if warmup is None and phase_1 is not None:
        # RAVE's own warm-up is for millions of steps: scaled down to the budget, never up.
        own = int(_value("BetaWarmupCallback.warmup_len"))
        warmup = min(own, max(1, int(BETA_WARMUP * min(phase_1, config.steps or phase_1))))
    return RaveSchedule(phase_1, warmup, phase_2=config.phase_1_steps is not None or share > 0)


def _override(overrides: list[str]) -> None:
    import gin

    for line in overrides:
        check_gin_imports(line, source=f"rave.overrides: '{line}'")
        try:
            gin.parse_config(line)
        except (ValueError, SyntaxError, NameError, AttributeError) as error:
            raise UserError(
                f"rave.overrides: RAVE does not accept '{line}'",
                why=str(error).strip().splitlines()[0],
                do_this="write Name.parameter=value with a name from config.gin, for example "
                "RAVE.update_discriminator_every=2.",
            ) from error


def _rehearse_phase_2(model: RAVE) -> None:
    """Call what only phase 2 calls, because gin writes only what has been called to config.gin."""
    features = torch.ones(1, 1, 2)
    model.feature_matching_fun(features, features)
    model.gan_loss(features, features)


def _hop_of_settings() -> int:
    """Samples per latent frame by the macros that all of RAVE's own configs use."""
    return int(_macro("N_BAND") * math.prod(_macro("RATIOS")))


def _checked_hop(model: RAVE, config: RaveConfig, expected: int | None) -> int:
    """Samples per latent frame, having checked that encoder and decoder agree on it.

    `expected`: by the settings; None: unknown.
    """
    hop = hop_of(model)
    # At least 2^14 samples, so that no layer sees less than its kernel; an odd number of frames,
    # so that a decoder that only works for even ones is found out.
    frames = max(8, math.ceil(2**14 / hop)) | 1
    audio = torch.zeros(1, model.n_channels, frames * hop)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        latents = model.encode(audio)
        decoded = model.decode(model.encoder.reparametrize(latents)[0])
    model.train()
    wanted = (expected or hop, frames, frames * hop)
    if (hop, latents.shape[-1], decoded.shape[-1]) != wanted:
        raise _cannot_build(
            config,
            f"n_band and ratios make {wanted[0]} samples a latent frame, but {frames * hop} "
            f"samples become {latents.shape[-1]} frames and {decoded.shape[-1]} samples again",
        )
    return hop


def _cannot_build(config: RaveConfig, why: str) -> UserError:
    return UserError(
        f"RAVE cannot be built from configs {config.configs} with these settings",
        why=why,
        do_this="undo changes of capacity, latent_size, ratios, n_band or overrides one by one; "
        "v2_nopqmf has fixed ratios.",
    )


def receptive_field(model: RAVE) -> tuple[int, int]:
    """RAVE's own measure (left, right) in samples, by which its loss crops.

    With several channels RAVE puts the whole span into both numbers and divides by the channels
    when it crops, which gives the same crop. The model's gradients and mode are left as found.
    """
    from rave import core

    training = model.training
    with compat.quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, right = core.get_rave_receptive_field(model, n_channels=model.n_channels)
    model.train(training)
    model.zero_grad(set_to_none=True)
    return int(left), int(right)


def smallest_signal(model: RAVE, field: tuple[int, int], hop: int) -> int:
    """The shortest crop in samples, a multiple of `hop`, that the loss's longest STFT can take.

    RAVE cuts the receptive field off both ends of each band before the multiband loss. A centred
    STFT of size S then pads by reflecting S / 2 samples, so at least S / 2 + 1 must be left.
    """
    bands = int(model.pqmf.n_band)
    rows = bands * model.n_channels
    cut = field[0] // rows + math.ceil(field[1] / rows) if model.valid_signal_crop else 0
    longest = int(max(model.multiband_audio_distance.multiscale_stft.scales))
    return math.ceil(bands * (longest // 2 + 1 + cut) / hop) * hop
