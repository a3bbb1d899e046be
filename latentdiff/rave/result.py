"""What a RAVE training records about itself: in each checkpoint, and in run.json when it ends.

Nothing here needs torch, so reading a result stays cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_FORMAT = 1


@dataclass(frozen=True)
class RaveSchedule:
    """Lengths that fit the budget. Once they are known they never change, whatever the budget."""

    phase_1_steps: int | None
    """Steps before the discriminator joins, over which the learning rate falls; None: the clock
    decides, and phase 1 is not over."""
    beta_warmup_steps: int | None
    """Steps over which the weight of the regularisation rises; None: the clock decides, and it
    still rises."""
    phase_2: bool = True
    """Whether there is a phase 2. If not, phase 1 goes on after `phase_1_steps`."""

    @property
    def awaits_phase_2(self) -> bool:
        """Whether the clock will begin phase 2."""
        return self.phase_2 and self.phase_1_steps is None

    def phase(self, step: int) -> int:
        """The phase of the last of `step` steps: 1 or 2."""
        over = self.phase_1_steps is not None and step > self.phase_1_steps
        return 2 if over and self.phase_2 else 1


@dataclass(frozen=True)
class LastValidation:
    """The latest validation."""

    distance: float
    """RAVE's multi-scale spectral distance between held-out sound and its reconstruction; >= 0,
    lower is better."""
    fidelity: dict[float, int]
    """Share of the latents' variance (0..1) -> number of principal directions that hold it."""


@dataclass(frozen=True)
class BestValidation:
    """The validation behind best.ckpt."""

    distance: float
    """Spectral distance as in `LastValidation`; the lowest of its phase."""
    phase: int
    """1 or 2; phase 2 starts again, see `callbacks.Supervisor`."""
    step: int


@dataclass(frozen=True)
class RaveTrainingResult:
    """How far a training has come and what it trains."""

    schedule: RaveSchedule
    sample_rate: int
    """Hz."""
    channels: int
    """Audio channels."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    pretrained: bool = False
    """Whether the run started from the weights of a checkpoint (`--ckpt`), not from random ones."""
    step: int = 0
    """Steps done."""
    elapsed: float = 0.0
    """Seconds of training, over all attempts."""
    phase: int = 1
    """Phase of the last step done: 1 (distances only) or 2 (with the discriminator)."""
    first: float | None = None
    """Distance before the first step; None: not measured yet."""
    last: LastValidation | None = None
    """None: not validated yet."""
    best: BestValidation | None = None
    """None: not validated since the first step."""

    @property
    def start_name(self) -> str:
        """Name in messages for the model before the first step."""
        return "start" if self.pretrained else "untrained"

    def to_dict(self) -> dict[str, object]:
        """Plain values, as checkpoints hold them (readable with `weights_only=True`)."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RaveTrainingResult:
        """The opposite of `to_dict`. Raises KeyError or TypeError where something is missing."""
        return cls(
            schedule=RaveSchedule(**values["schedule"]),
            **{name: values[name] for name in ("sample_rate", "channels", "hop", "latent_dim")},
            # Checkpoints written before `pretrained` and `elapsed` were recorded lack them.
            pretrained=values.get("pretrained", False),
            step=values["step"],
            elapsed=values.get("elapsed", 0.0),
            phase=values["phase"],
            **validations(values),
        )


def validations(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `first`, `last` and `best` from their plain values."""
    last, best = values["last"], values["best"]
    return {
        "first": values["first"],
        "last": LastValidation(**last) if last else None,
        "best": BestValidation(**best) if best else None,
    }
