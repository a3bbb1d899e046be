"""What each experiment does, why it is wrong, and what of the notebook it explains."""

from __future__ import annotations

from typing import NamedTuple

from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig


class Told(NamedTuple):
    """Of one switch."""

    does: str
    why: str
    entries: str
    """Of the notebook."""


SWITCHES = {
    "data.posterior": Told(
        "latents are drawn from the posterior",
        "along most directions that is white noise, which nothing can learn",
        "N55; N17 to N33",
    ),
    "data.scaling": Told(
        "each window is stretched to -1..1",
        "it cannot be undone, and leaves latents of a deviation near 0.2",
        "N69, N71, N75",
    ),
    "data.pairing": Told(
        "conditions are paired with the latents of other recordings",
        "there is nothing in them to follow",
        "N29, N51, N54",
    ),
    "network.output": Told(
        "one output channel stands for all",
        "no single channel resembles the noise of many: the best answer is zero",
        "N14 to N33",
    ),
    "network.bound": Told(
        "the output is bounded",
        "noise is not, and a sigmoid is never below zero",
        "N30",
    ),
    "network.layout": Told(
        "channels lie end to end, as one",
        "frames lose their channels, and stretched conditions their frames",
        "N21, N34 to N47, N68",
    ),
    "network.norm": Told(
        "BatchNorm in place of LayerNorm",
        "its statistics mix noise levels, and sampling uses other ones than training",
        "N56, N59, N83 to N91, N110",
    ),
    "network.divide_by_std": Told(
        "z_t is divided by its deviation before the formula of the clean latents",
        "that formula takes it to be what it was: wrong by the latents' deviation at low noise",
        "N107 to N109",
    ),
    "network.integer_steps": Told(
        "the network is trained on t in 0..1, and told 0, 1, 2, ... in sampling",
        "all but the first of these it has never seen",
        "N106",
    ),
    "training.levels": Told(
        "one noise level a batch",
        "gradients and losses jump from batch to batch, most levels are rarely seen",
        "N38, N40, N65, N83 to N91",
    ),
    "training.t_range": Told(
        "a part of the noise levels is trained on",
        "sampling visits the others too",
        "N110",
    ),
    "training.clip_noise": Told(
        "the noise of training is clipped",
        "sampling starts from noise that is not: at 1, a third of it lies outside",
        "N82",
    ),
    "training.square_root": Told(
        "z_t is mixed without square roots",
        "its levels are not those that sampling takes them for",
        "N31",
    ),
    "training.previous": Told(
        "the network puts out the latents one step cleaner",
        "giving back what it was given is nearly right, and its errors add up over the steps",
        "N92, N97, N100, N103",
    ),
    "sampling.clamp": Told(
        "latents are clamped after every step",
        "a third of all latents of unit variance lies outside 1",
        "N18",
    ),
    "sampling.normalise": Told(
        "finished samples are bent to a normal shape",
        "that mends how often values occur, not what they mean",
        "N64, N67",
    ),
}
"""By key within `experiment`; every setting has its own."""


def warnings(config: ExperimentConfig) -> list[str]:
    """A line for each switch that is on."""
    return [
        f"experiment.{key}={value}, unsound on purpose: {told.does}; {told.why} "
        f"(notebook: {told.entries})"
        for key, told in SWITCHES.items()
        for value in [_value(config, key)]
        if value != _value(NO_EXPERIMENT, key)
    ]


def _value(config: ExperimentConfig, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
