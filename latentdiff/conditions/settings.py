"""Settings of conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from latentdiff.conditions.registry import FEATURES
from latentdiff.config import Section, catalogue

KINDS = {
    "none": "unconditional",
    **{name: entry.summary for name, entry in FEATURES.items()},
    "label": "one of several kinds of sound, named by the folders of the files",
    "both": "a mel spectrogram and a label",
}
"""Name -> summary."""

if TYPE_CHECKING:
    KindName = str
else:
    # The registry is the only list of features; a type checker cannot look into it.
    KindName = Literal[tuple(KINDS)]


class MelConfig(Section):
    """The mel spectrogram; the defaults are DiffWave's."""

    sample_rate: int = Field(default=22050, ge=1000)
    """Hz; audio is resampled to it."""

    n_fft: int = Field(default=1024, ge=16)
    """Samples per frame, and length of its Hann window."""

    hop: int = Field(default=256, ge=1)
    """Samples from one frame to the next."""

    bands: int = Field(default=80, ge=1)
    """Mel bands."""

    f_min: float = Field(default=20.0, ge=0)
    """Hz, lower edge of the lowest band."""

    f_max: float | None = Field(default=None, gt=0)
    """Hz, upper edge of the highest band. null: half the sample rate."""

    power: float = Field(default=1.0, gt=0)
    """1: magnitude, 2: power."""

    @model_validator(mode="after")
    def _frequencies_are_ordered(self) -> MelConfig:
        nyquist = self.sample_rate / 2
        top = self.f_max if self.f_max is not None else nyquist
        if top > nyquist:
            raise ValueError(f"f_max must not exceed half the sample rate ({nyquist:g} Hz)")
        if self.f_min >= top:
            raise ValueError(f"f_min must be below the upper edge ({top:g} Hz)")
        if self.hop > self.n_fft:
            raise ValueError("hop must not exceed n_fft, or audio between frames is lost")
        return self


class ConditionConfig(Section):
    """The condition of the diffusion model."""

    kind: KindName = Field(default="none", description=catalogue(KINDS))

    labels: str | None = None
    """CSV file with the columns `key`, a recording's path as in the manifest of the latents, and
    `label`. null: a recording's label is the name of its folder."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability with which a training window loses its condition, so that the model can also
    sample without one and be guided. 0: it cannot."""

    mel: MelConfig = MelConfig()
    """The spectrogram of kinds mel and both."""

    @property
    def features(self) -> str | None:
        """Name in the registry of the features that the model follows; None: none."""
        name = "mel" if self.kind == "both" else self.kind
        return name if name in FEATURES else None

    @property
    def follows_label(self) -> bool:
        """Whether the model is conditioned on a label."""
        return self.kind in ("label", "both")

    @model_validator(mode="after")
    def _labels_are_used(self) -> ConditionConfig:
        if self.labels is not None and not self.follows_label:
            raise ValueError(f"labels are not read by a condition of kind {self.kind}")
        return self
