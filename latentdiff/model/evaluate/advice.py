"""What may make the samples of an evaluated model better: only what is not done already."""

from __future__ import annotations

from latentdiff.model.evaluate.results import EvaluationResult
from latentdiff.training import verdict

LOW_SPREAD, HIGH_SPREAD = 0.8, 1.25
"""Median spread outside of which samples clearly differ in strength from the training latents."""
LABEL_RATIO = 1.5
"""Ratio of the highest to the lowest spread of a label from which labels need settings of their
own."""
NO_GAIN = 0.01
"""Conditioning gain below which there is nothing that guidance could exaggerate."""


def advice(result: EvaluationResult) -> list[str]:
    """A line each; empty if nothing stands out."""
    return [*_guidance(result), *_spread(result), *_labels(result)]


def _guidance(r: EvaluationResult) -> list[str]:
    gain = None if r.held_out is None else r.held_out.conditioning_gain
    if gain is None or not r.sampling.can_guide or r.sampling.guidance != 1:
        return []
    if not NO_GAIN <= gain < verdict.MUCH_GAIN:
        return []
    return [
        f"samples follow their condition weakly (conditioning gain {gain:.2f}), and guidance is "
        "off: sampling.guidance above 1 (try 2 or 3) makes them follow it more closely"
    ]


def _spread(r: EvaluationResult) -> list[str]:
    spread, sampling = r.spread.median, r.sampling
    if LOW_SPREAD <= spread <= HIGH_SPREAD:
        return []
    if spread < LOW_SPREAD:
        raise_it = f"raise sampling.autoguidance (now {sampling.autoguidance:.2f})"
        remedies = ["train longer", *([] if sampling.fixed_calls else [raise_it])]
        return [f"samples are weaker than the training latents: {', or '.join(remedies)}"]
    remedies = []
    if sampling.guidance > 1:
        remedies.append(f"lower sampling.guidance (now {sampling.guidance:g})")
    if not sampling.fixed_calls:
        if sampling.autoguidance > 1:
            remedies.append(f"lower sampling.autoguidance (now {sampling.autoguidance:.2f})")
        remedies.append(f"raise sampling.steps (now {sampling.steps})")
    remedies.append("train longer")
    return [f"samples are stronger than the training latents: {', or '.join(remedies)}"]


def _labels(r: EvaluationResult) -> list[str]:
    """Advice for labels of unequal spread: autoguidance is calibrated once for all labels."""
    spreads = {label: each.median for label, each in r.spread.labels.items()}
    if len(spreads) < 2 or r.sampling.fixed_calls:
        return []
    ordered = sorted(spreads, key=spreads.__getitem__)
    weakest, strongest = ordered[0], ordered[-1]
    if spreads[strongest] < LABEL_RATIO * spreads[weakest]:
        return []
    return [
        f"the strength of samples depends on the label ({weakest} {spreads[weakest]:.2f}, "
        f"{strongest} {spreads[strongest]:.2f}), and sampling.autoguidance (now "
        f"{r.sampling.autoguidance:.2f}) is the same for all: sample labels separately, with more "
        "for weak ones and less for strong ones"
    ]
