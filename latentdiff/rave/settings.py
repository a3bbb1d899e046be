"""Settings of `train-rave`: which RAVE, for how long, on how much signal."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentdiff.config import Section, did_you_mean

MODIFIERS = (
    "adain",
    "causal",
    "descript_discriminator",
    "noise",
    "snake",
    "spectral_discriminator",
    "spherical",
    "wasserstein",
)
"""RAVE configs that modify another one and are not a model by themselves."""

BROKEN = {
    "discrete": "acids-rave 2.3.1 never switches its quantiser on, and a diffusion model needs "
    "continuous latents",
    "discrete_v3": "acids-rave 2.3.1 never switches its quantiser on, and a diffusion model needs "
    "continuous latents",
    "hybrid": "acids-rave 2.3.1 feeds the mel spectrogram to its filter bank and fails in step 1",
    "v2_with_augs": "acids-rave 2.3.1 feeds the mel spectrogram to its filter bank and fails in "
    "step 1; use v2 and `augmentations`",
    "v2_nopqmf_small": "it sets a parameter that acids-rave 2.3.1 does not have; use v2_nopqmf",
    "normalize_ambient": "it compresses with sox, which torchaudio no longer has",
}
"""RAVE configs that acids-rave 2.3.1 ships but cannot train, and why."""

PHASE_2_SHARE = {"cpu": 0.0, "mps": 0.5, "cuda": 0.5}
"""Share of the budget that phase 2 gets if `phase_2_share` is null, by device. On a CPU the
discriminator costs most of a step, and a codec that has seen few steps is short of phase 1."""


@cache
def shipped_configs() -> dict[str, Path]:
    """Name -> file of every `.gin` model config in the installed wheel (nothing is imported)."""
    spec = importlib.util.find_spec("rave")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(next(iter(spec.submodule_search_locations))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.gin"))}


class RaveConfig(Section):
    """How the RAVE codec is built and trained."""

    start: str = "auto"
    """Weights that a new run starts from. auto: the starter codec that the package brings, where
    one of this sample rate and shape exists, else random ones. none: random ones. Otherwise a
    checkpoint or RAVE run, as `--ckpt` takes."""
    configs: list[str] = Field(default=["v2"], min_length=1)
    """RAVE's own configuration names, each overriding those before it. The first one is a model
    (v1, v2, v2_small, v3, raspberry, ...), the others may be modifiers (noise, causal,
    wasserstein, ...)."""
    overrides: list[str] = Field(default=[])
    """gin bindings that override everything else, such as `RAVE.update_discriminator_every=2`."""
    augmentations: list[Literal["gain", "mute"]] = Field(default=[])
    """Augmentations beside the random crop and phase rotation that RAVE always uses: `gain` of
    -6..3 dB for half of the crops, `mute` for one crop in ten."""
    capacity: int | None = Field(default=None, ge=1)
    """Channels of the first layer, doubled at each ratio; null: the config's own."""
    latent_size: int | None = Field(default=None, ge=2)
    """Dimensions of the latent space; null: the config's own (128 for v2)."""
    ratios: list[Annotated[int, Field(ge=1, le=64)]] | None = Field(default=None, min_length=1)
    """Downsampling of each stage after the filter bank, in even numbers (odd ones change the
    length). A latent frame is n_band * product(ratios) samples. Null: the config's own."""
    n_band: int | None = Field(default=None, ge=1)
    """Bands of the filter bank, a power of two; null: the config's own (16)."""
    n_signal: int = Field(default=131072, ge=1024)
    """Samples per training crop, at data.sample_rate."""
    batch: int = Field(default=8, ge=1)
    """Crops per step and device."""
    steps: int | None = Field(default=1_000_000, ge=1)
    """Training steps, both phases together. Raising it later continues the run. null: as many as
    `hours` allows."""
    hours: float | None = Field(default=None, gt=0)
    """Total wall-clock hours, over all attempts, validation included. Training ends when steps or
    hours are used up, whichever is first; both phases, the learning rate and the warm-up of beta
    fit themselves to it. Raising it later continues the run. null: no limit."""
    phase_2_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the budget that phase 2 gets, in which the discriminator joins and the encoder
    freezes; of the steps, or of the time with `hours`. 0: no discriminator. null: half on a GPU, 0
    on a CPU."""
    phase_1_steps: int | None = Field(default=None, ge=1)
    """Steps before phase 2, over which the learning rate falls, whatever `phase_2_share` says; with
    `steps` or more there is no discriminator. null: by `phase_2_share`."""
    feature_matching: float | None = Field(default=None, ge=0)
    """Weight of the feature matching loss in phase 2; null: the config's own, which acids-rave
    2.3.1 squares (v2 sets 20 and gets 400)."""
    level_weight: float = Field(default=0.0, ge=0)
    """Weight of a loss that RAVE does not have: how far the level of each frequency band is off.
    With 1, a short training is not too quiet above 1 kHz; 0 trains as RAVE does."""
    beta: float | None = Field(default=None, gt=0)
    """Weight of the latents' regularisation after its warm-up; null: the config's own (0.05 for
    v2)."""
    beta_warmup_steps: int | None = Field(default=None, ge=1)
    """Steps over which beta rises to its final value; null: a fifth of phase 1, at most what the
    config says (20,000 for v2)."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; null: a twentieth of `steps`, between 10 and 10,000. With `hours`,
    a twentieth of the time, at most 15 minutes; and longer if validating would take more than a
    tenth of it."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between writings of last.ckpt; null: as often as validation."""
    validation_chunks: int = Field(default=128, ge=1)
    """Held-out crops that a validation reconstructs at most, spread evenly over the records."""
    workers: int = Field(default=1, ge=0, le=16)
    """Processes that read and augment audio; 0 does it in the training process."""
    devices: int = Field(default=1, ge=1)
    """Devices (GPUs, or CPU processes) to train on; each takes its own `batch`."""
    precision: Literal["32", "bf16-mixed"] = "32"
    """Arithmetic on the device. RAVE was designed for 32; bf16-mixed is faster on a GPU. (16-mixed
    is not offered: RAVE's own backward calls would bypass the loss scaling.)"""

    def share_of_phase_2(self, device: str) -> float:
        """`phase_2_share`, or its default on this device: cpu, cuda or mps."""
        if self.phase_2_share is not None:
            return self.phase_2_share
        return PHASE_2_SHARE[device]

    @model_validator(mode="after")
    def _check(self) -> RaveConfig:
        if self.steps is None and self.hours is None:
            raise ValueError("set steps, or hours, or both")
        known = shipped_configs()
        for name in self.configs:
            if name in BROKEN:
                raise ValueError(f"configs: '{name}' cannot be trained: {BROKEN[name]}")
            if known and name not in known:
                hint = did_you_mean(name, [k for k in known if k not in BROKEN])
                raise ValueError(f"configs: RAVE has no config '{name}'{hint}")
        if self.configs[0] in MODIFIERS:
            raise ValueError(
                f"configs: '{self.configs[0]}' only modifies another config: put a model such as "
                "v2 before it"
            )
        if self.n_band is not None and self.n_band & (self.n_band - 1):
            near = 2 ** round(math.log2(self.n_band))
            raise ValueError(f"n_band must be a power of two, for example {near}")
        odd = [ratio for ratio in self.ratios or [] if ratio > 1 and ratio % 2]
        if odd:
            raise ValueError(f"ratios: {odd[0]} is odd, and RAVE's upsampling would add samples")
        return self
