"""A RAVE run on disk -> the model, with the weights that encode and decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.checkpoint import read_checkpoint
from latentdiff.rave.gin_check import read_gin
from latentdiff.rave.locate import CONFIG, find_run

if TYPE_CHECKING:
    from rave import RAVE

_CODEC_PARTS = ("encoder.", "decoder.", "pqmf.")
"""Weights that turn sound into latents and back; the rest of a checkpoint only serves training."""


@dataclass(frozen=True)
class Origin:
    """Origin of a model."""

    path: Path
    step: int | None
    """Training steps; None: not recorded in the file."""
    phase: int | None
    """1: distances only. 2: with the discriminator, encoder frozen. None: not recorded."""

    def describe(self) -> str:
        """One line for people."""
        step = "unknown step" if self.step is None else f"step {self.step:,}"
        return f"{self.path}, {step}" + (f", phase {self.phase}" if self.phase else "")


def load_rave(run: Path, ckpt: str | Path | None = None) -> tuple[RAVE, Origin]:
    """A `rave.RAVE` in evaluation mode, on the CPU, and where its weights came from.

    `run`: our `rave` stage, or a run of `rave train` (its folder, the folder above it, or one of
    its checkpoints). `ckpt`: `last` (also None), `best`, or the path of a checkpoint. Where a run
    of `rave train` holds several, `last` is the one with the most steps.

    No code in the weights is executed, and config.gin is checked before gin sees it. Raises
    UserError where something is missing, damaged, or does not fit together.
    """
    config, path = find_run(run, ckpt)
    checkpoint = read_checkpoint(path)
    weights = checkpoint["state_dict"]
    model = _build(config, weights)
    _fill(model, weights, path)
    return model.eval(), origin_of(path, checkpoint)


def codec_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that define the codec: two models that share them share their latents."""
    return {name: value for name, value in weights.items() if name.startswith(_CODEC_PARTS)}


def origin_of(path: Path, checkpoint: Mapping[str, Any]) -> Origin:
    """Step and phase of a checkpoint."""
    step = checkpoint.get("global_step")
    flags = [v for k, v in checkpoint["state_dict"].items() if k.endswith("coder.warmed_up")]
    phase = None if not flags else 2 if any(bool(flag) for flag in flags) else 1
    return Origin(path, None if step is None else int(step), phase)


def _build(config: Path, weights: Mapping[str, Tensor]) -> RAVE:
    """The model that config.gin describes, with the number of channels of the weights."""
    text = read_gin(config)
    with compat.isolated_gin(), compat.quiet():
        import gin
        import rave

        try:
            gin.parse_config(text)
            model = rave.RAVE()
            channels = _channels(model, weights)
            # `rave train` does not write the number of channels into config.gin.
            return model if channels == model.n_channels else rave.RAVE(n_channels=channels)
        except (ValueError, TypeError, AttributeError, NameError, RuntimeError, KeyError) as error:
            raise UserError(
                f"the model of {config} cannot be built",
                why=str(error).strip().splitlines()[0],
                do_this="use the config.gin that acids-rave 2.3 wrote for these weights.",
            ) from error


def _channels(model: RAVE, weights: Mapping[str, Tensor]) -> int:
    """Audio channels of the weights, from the width of the encoder's first layer."""
    channels = int(model.n_channels)
    for name, value in model.encoder.state_dict(prefix="encoder.").items():
        if name.endswith((".weight", ".weight_v")) and value.ndim == 3 and name in weights:
            # The first layer takes n_band * channels rows.
            theirs, ours = weights[name].shape[1], value.shape[1]
            return channels * theirs // ours if theirs % ours == 0 else channels
    return channels


def _fill(model: RAVE, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load what the codec needs; UserError unless all of it is there and fits."""
    wanted, given = codec_weights(model.state_dict()), codec_weights(weights)
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not part of the model" for name in given if name not in wanted]
    problems += [
        f"{name} is {tuple(given[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        raise UserError(
            f"{path} does not fit its {CONFIG}",
            why=f"{len(problems)} differences; the first: {problems[0]}",
            do_this=f"put the {CONFIG} that the checkpoint was trained with beside it.",
        )
    model.load_state_dict(given, strict=False)
