"""What a diagnosis of a training finds: causes, most serious first, each with its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much of a bad result a cause explains."""

    SYMPTOM = 1
    """A consequence of another cause, which may be among the other findings."""
    COSTS = 2
    """The result is worse than it could be."""
    BREAKS = 3
    """Nothing else helps until it is fixed."""


PHRASES = {
    Severity.SYMPTOM: "a symptom",
    Severity.COSTS: "costs quality",
    Severity.BREAKS: "breaks the training",
}


@dataclass(frozen=True)
class Finding:
    """One cause."""

    cause: str
    """Identifier, such as `sampled-posteriors`."""
    severity: Severity
    title: str
    evidence: tuple[str, ...]
    """Measurements, each with its healthy value."""
    do_this: str
    """Advice that can help with the settings in force."""


def most_serious_first(findings: Iterable[Finding | None]) -> list[Finding]:
    """Without the Nones; equally serious ones stay in the order given.

    Causes are given along the way from the latents to the samples: what goes wrong early explains
    what goes wrong later.
    """
    return sorted((f for f in findings if f is not None), key=lambda f: -f.severity)


def lines_of(findings: Sequence[Finding], judged: bool = True) -> list[str]:
    """Text for the terminal. `judged`: whether the model could be measured on its latents."""
    if not findings and not judged:
        return ["could not be judged: the model was not measured, and its metrics show no cause"]
    if not findings:
        return ["nothing found: this run shows no known cause of a bad training"]
    lines = ["1 finding" if len(findings) == 1 else f"{len(findings)} findings, most serious first"]
    for number, finding in enumerate(findings, 1):
        lines.append(f"{number}. {finding.title} ({PHRASES[finding.severity]})")
        lines += [f"     {line}" for line in finding.evidence]
        lines.append(f"     do: {finding.do_this}")
    return lines
