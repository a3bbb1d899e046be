"""Settings of conditions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from latentdiff.conditions.registry import KINDS
from latentdiff.config import Section, catalogue

if TYPE_CHECKING:
    KindName = str
else:
    # The registry is the only list of kinds; a type checker cannot look into it.
    KindName = Literal[tuple(KINDS)]

AUTOMATIC = tuple(kind for kind in ("style", "beat") if kind in KINDS)
"""The kinds of `auto`."""
OLD_KINDS = {"none": [], "both": ["mel", "label"]}
"""Words that stand for a set of kinds."""
Probability = Annotated[float, Field(ge=0, lt=1)]


class StyleConfig(Section):
    """What a piece is like as a whole."""

    seconds: tuple[float, float] = (20.0, 60.0)
    """Shortest and longest stretch of a piece that training takes its style from. A style of the
    whole piece would be its name, and new ones would mean nothing."""

    noise: float = Field(default=0.2, ge=0)
    """Standard deviation of the noise on styles in training, where 1 is that of styles."""

    dropout: Probability = 0.1
    """Probability with which a window loses its style alone."""

    @field_validator("seconds")
    @classmethod
    def _shortest_first(cls, seconds: tuple[float, float]) -> tuple[float, float]:
        if not 0 < seconds[0] <= seconds[1]:
            raise ValueError("the shortest stretch comes first and is longer than 0 seconds")
        return seconds


class BeatConfig(Section):
    """The beat of a piece."""

    dropout: Probability = 0.1
    """Probability with which a window loses its beat alone. Files without a beat never have one."""


class ChromaConfig(Section):
    """The chroma features. Tuning is fixed to A = 440 Hz."""

    sample_rate: int = Field(default=22050, ge=4000)
    """Hz; audio is resampled to it."""

    n_fft: int = Field(default=4096, ge=512)
    """Samples per frame, and length of its Hann window."""

    hop: int = Field(default=1024, ge=1)
    """Samples from one frame to the next."""

    f_min: float = Field(default=110.0, gt=0)
    """Hz, lowest frequency counted. Lower notes are too near each other for the window; their
    overtones count."""

    f_max: float = Field(default=2000.0, gt=0)
    """Hz, highest frequency counted. Above, overtones outweigh the notes themselves."""

    dropout: Probability = 0.1
    """Probability with which a window loses its chroma alone."""


class LoudnessConfig(Section):
    """The loudness feature."""

    sample_rate: int = Field(default=22050, ge=4000)
    """Hz; audio is resampled to it."""

    n_fft: int = Field(default=1024, ge=64)
    """Samples per frame, and length of its Hann window."""

    hop: int = Field(default=256, ge=1)
    """Samples from one frame to the next."""

    dropout: Probability = 0.1
    """Probability with which a window loses its loudness alone."""


class LabelConfig(Section):
    """Labels of recordings."""

    dropout: Probability = 0.0
    """Probability with which a window loses its label alone."""


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

    dropout: Probability = 0.0
    """Probability with which a window loses its spectrogram alone."""

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
    """The conditions of the diffusion model."""

    old_names = {"kind": "kinds"}
    method_key = "kinds"

    kinds: Literal["auto"] | tuple[KindName, ...] = Field(
        default="auto",
        description="What samples follow: any of these, such as [style, beat], or none. auto: "
        "style, and beat where recordings have one. "
        + catalogue({name: entry.summary for name, entry in KINDS.items()}),
    )

    labels: str | None = None
    """CSV file with the columns `key`, a recording's path as in the manifest of the latents, and
    `label`. null: a recording's label is the name of its folder."""

    dropout: Probability = 0.1
    """Probability with which a training window loses all its conditions, so that the model can also
    sample without any and be guided. 0: it cannot."""

    style: StyleConfig = StyleConfig()
    beat: BeatConfig = BeatConfig()
    chroma: ChromaConfig = ChromaConfig()
    loudness: LoudnessConfig = LoudnessConfig()
    mel: MelConfig = MelConfig()
    label: LabelConfig = LabelConfig()

    @field_validator("kinds", mode="before")
    @classmethod
    def _kinds_as_words(cls, value: object) -> object:
        """`none`, `mel` and `style,beat` for lists; in the order of the registry, each once."""
        if value == "auto":
            return value
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)):
            return value
        names = [name.strip() for word in words for name in str(word).split(",")]
        wanted = [kind for name in names for kind in OLD_KINDS.get(name, [name])]
        unknown = [name for name in wanted if name not in KINDS]
        return [name for name in KINDS if name in wanted] + unknown

    @classmethod
    def method_fields(cls) -> frozenset[str]:
        return frozenset(
            f"{kind}.{name}"
            for kind in KINDS
            if kind in cls.model_fields
            for name in type(cls.model_fields[kind].default).model_fields
        )

    def read_by_method(self) -> frozenset[str]:
        # `encode` stores mel spectrograms whatever samples follow.
        stored = {f"mel.{name}" for name in MelConfig.model_fields if name != "dropout"}
        fields = self.method_fields()
        return frozenset(stored | {x for x in fields if x.partition(".")[0] in self.chosen})

    @property
    def automatic(self) -> bool:
        """Whether the kinds are still to be chosen."""
        return self.kinds == "auto"

    @property
    def chosen(self) -> tuple[str, ...]:
        """The kinds that are followed, in the order of the registry; for auto, those tried."""
        return AUTOMATIC if self.kinds == "auto" else self.kinds

    @property
    def dropouts(self) -> dict[str, float]:
        """Kind -> probability with which a training window loses that kind alone."""
        return {kind: getattr(self, kind).dropout for kind in self.chosen if hasattr(self, kind)}

    def following(self, kinds: Iterable[str]) -> ConditionConfig:
        """The same settings with these kinds."""
        return self.model_copy(update={"kinds": tuple(kinds)})

    @model_validator(mode="after")
    def _labels_are_used(self) -> ConditionConfig:
        if self.labels is not None and "label" not in self.chosen:
            kinds = ", ".join(self.chosen) or "none"
            raise ValueError(f"labels are not read by conditions of the kinds {kinds}")
        return self
