"""For each experiment: what it does, why it is a mistake, and the notebook entries it explains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig


class Description(NamedTuple):
    """One mistake in words."""

    effect: str
    reason: str
    """Why it is a mistake."""
    entries: str
    """Entries of the notebook."""


DESCRIPTIONS = {
    "data.posterior": Description(
        "latents are drawn from the posterior",
        "along most directions that is white noise, which nothing can learn",
        "N55; N17 to N33",
    ),
    "data.scaling": Description(
        "each window is scaled to -1..1",
        "this cannot be undone, and leaves latents with a standard deviation near 0.2",
        "N69, N71, N75",
    ),
    "data.pairing": Description(
        "conditions are paired with the latents of other recordings",
        "they say nothing about those latents",
        "N29, N51, N54",
    ),
    "network.output": Description(
        "one output channel is used for all",
        "no single channel resembles the noise of many: the best answer is zero",
        "N14 to N33",
    ),
    "network.bound": Description(
        "the output is bounded",
        "noise is not, and a sigmoid is never below zero",
        "N30",
    ),
    "network.layout": Description(
        "channels are laid end to end as one channel",
        "the network loses the frame structure, and stretched conditions match no frame",
        "N21, N34 to N47, N68",
    ),
    "network.norm": Description(
        "BatchNorm replaces LayerNorm",
        "its statistics mix noise levels, and sampling uses other statistics than training",
        "N56, N59, N83 to N91, N110",
    ),
    "network.divide_by_std": Description(
        "z_t is divided by its standard deviation before the formula for the clean latents",
        "the formula expects z_t itself; at low noise it is off by the latents' deviation",
        "N107 to N109",
    ),
    "network.integer_steps": Description(
        "the network is trained on t in 0..1 but gets 0, 1, 2, ... in sampling",
        "all of these but 0 and 1 are outside of what it was trained on",
        "N106",
    ),
    "training.levels": Description(
        "all windows of a batch have the same noise level",
        "gradients and losses jump from batch to batch, and most levels are rarely seen",
        "N38, N40, N65, N83 to N91",
    ),
    "training.t_range": Description(
        "only part of the noise levels is trained on",
        "sampling visits the others too",
        "N110",
    ),
    "training.clip_noise": Description(
        "the noise is clipped in training",
        "sampling starts from unclipped noise: a third of it lies outside -1..1",
        "N82",
    ),
    "training.square_root": Description(
        "z_t is mixed without square roots",
        "its noise levels are not those that sampling assumes",
        "N31",
    ),
    "training.previous": Description(
        "the network predicts the latents one step cleaner",
        "returning its input is nearly right, and errors add up over the steps",
        "N92, N97, N100, N103",
    ),
    "sampling.clamp": Description(
        "latents are clamped after every step",
        "a third of all latents of unit variance lies outside -1..1",
        "N18",
    ),
    "sampling.normalise": Description(
        "finished samples are made normally distributed",
        "this corrects how often values occur, not what they mean",
        "N64, N67",
    ),
}
"""By key within the section `experiment`; every setting has its own."""


def warnings(config: ExperimentConfig) -> list[str]:
    """A line for each mistake that is switched on."""
    return [
        f"experiment.{key}={value}, unsound on purpose: {text.effect}; {text.reason} "
        f"(notebook: {text.entries})"
        for key, text in DESCRIPTIONS.items()
        for value in [_value(config, key)]
        if value != _value(NO_EXPERIMENT, key)
    ]


def undo(config: ExperimentConfig, switches: Sequence[str]) -> list[str]:
    """KEY=VALUE for each of these switches, or sections of them, that is on."""
    return [
        f"experiment.{key}={_word(_value(NO_EXPERIMENT, key))}"
        for key in DESCRIPTIONS
        if _value(config, key) != _value(NO_EXPERIMENT, key)
        and any(key == switch or key.startswith(f"{switch}.") for switch in switches)
    ]


def _word(value: object) -> str:
    """A value in YAML notation."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _value(config: ExperimentConfig, key: str) -> object:
    section, name = key.split(".")
    value: object = getattr(getattr(config, section), name)
    return value
