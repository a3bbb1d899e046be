"""Starter codecs: small RAVEs that have heard hours of synthetic sound, shipped in the package.

Training from one of them begins where training from random weights arrives much later. They are
made by `scripts/train_starter.py`, from sound of `latentdiff.synth` alone.

A file holds the weights of encoder and decoder: those with two or more dimensions in half
precision, the others as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentdiff import runs

if TYPE_CHECKING:
    from rave import RAVE

log = logging.getLogger(__name__)

STARTERS = Path(__file__).parent / "starters"
"""Folder of the shipped starters, one `.safetensors` each."""
_PARTS = ("encoder.", "decoder.")
_FACTS = "latentdiff"
"""Key of the metadata that holds a `StarterFacts` as JSON."""


@dataclass(frozen=True)
class StarterFacts:
    """What a starter was trained on, and for how long."""

    preset: str
    """Preset whose `rave` section it was trained with."""
    sample_rate: int
    """Hz."""
    steps: int
    hours: float
    """Hours of synthetic sound that it was trained on."""
    seed: int
    distance: float
    """RAVE's spectral distance on held-out synthetic sound, at the end."""


@dataclass(frozen=True)
class Starter:
    """A starter on disk."""

    path: Path
    facts: StarterFacts

    def describe(self) -> str:
        """One line for people."""
        return (
            f"starting from the starter codec '{self.path.stem}': {self.facts.steps:,} steps on "
            f"{self.facts.hours:g} hours of synthetic sound"
        )


def find_starter(model: RAVE, sample_rate: int) -> Starter | None:
    """The shipped starter for this sample rate in Hz whose weights fit the model; None: no such."""
    shapes = {name: value.shape for name, value in _weights(model).items()}
    for path in sorted(STARTERS.glob("*.safetensors")):
        starter, theirs = _read_header(path)
        if starter.facts.sample_rate == sample_rate and theirs == shapes:
            return starter
    return None


def load_starter(model: RAVE, starter: Starter) -> None:
    """Put a starter's weights into the encoder and the decoder of a model that it fits."""
    from safetensors.torch import load_file

    own = model.state_dict()
    weights = {name: value.to(own[name].dtype) for name, value in load_file(starter.path).items()}
    model.load_state_dict({**own, **weights})


def write_starter(model: RAVE, path: Path, facts: StarterFacts) -> None:
    """Write the weights of a trained model as a starter, atomically."""
    from safetensors.torch import save_file

    weights = {
        name: (value.half() if value.ndim > 1 else value).contiguous()
        for name, value in _weights(model).items()
    }
    runs.make_directory(path.parent)
    with runs.atomic(path) as partial:
        save_file(weights, partial, metadata={_FACTS: json.dumps(asdict(facts))})


def _weights(model: RAVE) -> Mapping[str, Tensor]:
    """Encoder and decoder, without flags and buffers that training sets itself."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(_PARTS) and not name.endswith("warmed_up")
    }


def _read_header(path: Path) -> tuple[Starter, dict[str, torch.Size]]:
    """A starter and the shapes of its weights, which are not read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = StarterFacts(**json.loads(file.metadata()[_FACTS]))
        names = list(file.keys())
        shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
    return Starter(path, facts), shapes
