"""What a checkpoint says of a distilled model: its network calls, and its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentdiff.diffusion.distillation import STUDENT
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.runs import Input

DEFAULTS = SamplingConfig()
"""Default settings, in whose place a distilled model's own are used."""


@dataclass(frozen=True)
class Distilled:
    """The network calls of a distilled model."""

    levels: tuple[float, ...]
    """Rising log-SNRs, one for each call."""
    teacher: Input
    """The teacher's checkpoint, with the sha256 of its file."""
    sampler: str = STUDENT

    @classmethod
    def from_header(cls, values: Mapping[str, Any]) -> Distilled:
        """The inverse of `to_header`."""
        teacher = Input(values["teacher"], values["teacher_fingerprint"])
        return cls(tuple(values["levels"]), teacher, values["sampler"])

    def to_header(self) -> dict[str, Any]:
        """JSON for a checkpoint's header."""
        return {
            "levels": list(self.levels),
            "sampler": self.sampler,
            "teacher": self.teacher.path,
            "teacher_fingerprint": self.teacher.fingerprint,
        }

    def describe(self) -> str:
        """In one line."""
        levels = ", ".join(f"{level:g}" for level in self.levels)
        calls = f"{len(self.levels)} call{'s' if len(self.levels) > 1 else ''}"
        return (
            f"distilled to {calls} ({self.sampler}, log-SNR {levels}) from {self.teacher.path} "
            f"({self.teacher.fingerprint[:12]})"
        )

    def sampling(self, settings: SamplingConfig, name: str) -> SamplingConfig:
        """Settings with the calls of this model, called `name`, where they are the default.

        Raises UserError where they ask for other calls, or for guidance of any kind.
        """
        own = {"sampler": self.sampler, "steps": len(self.levels), "spacing": DEFAULTS.spacing}
        for key, value in own.items():
            asked = getattr(settings, key)
            if asked not in (value, getattr(DEFAULTS, key)):
                raise UserError(
                    f"{name} cannot be sampled with sampling.{key}={asked}",
                    why=f"it is {self.describe()}, and knows no other noise levels",
                    do_this=f"drop the setting, or give {key}={value}; or sample the teacher.",
                )
        if settings.autoguidance not in ("auto", 1):
            raise UserError(
                f"{name} cannot be sampled with autoguidance",
                why="it is distilled, and has learned the autoguidance of its teacher: more makes "
                "its samples worse",
                do_this="drop sampling.autoguidance.",
            )
        if settings.guidance != 1:
            raise UserError(
                f"{name} cannot be sampled with guidance",
                why="guidance of distilled models is untested, and would double the calls that "
                "distilling saved",
                do_this="drop sampling.guidance, or guide the teacher.",
            )
        return settings.model_copy(update={**own, "autoguidance": 1.0})
