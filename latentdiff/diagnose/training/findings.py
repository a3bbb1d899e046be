"""What a diagnosis of a training comes to: causes, heaviest first, each with its evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Weight(IntEnum):
    """How much of a bad result a cause explains."""

    SYMPTOM = 1
    """It follows from something else, which may be among the other findings."""
    COSTS = 2
    """The result is worse than it could be."""
    BREAKS = 3
    """While it lasts nothing else helps."""


WORDS = {
    Weight.SYMPTOM: "a symptom",
    Weight.COSTS: "costs quality",
    Weight.BREAKS: "breaks the training",
}


@dataclass(frozen=True)
class Finding:
    """One cause."""

    cause: str
    """Its name for programs, such as `sampled-posteriors`."""
    weight: Weight
    title: str
    evidence: tuple[str, ...]
    """Numbers, each beside what it must be compared with."""
    do_this: str

    def facts(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "cause": self.cause,
            "weight": int(self.weight),
            "title": self.title,
            "evidence": list(self.evidence),
            "do_this": self.do_this,
        }


def in_order(found: Iterable[Finding | None]) -> list[Finding]:
    """Those that are there, heaviest first.

    Of equal ones the first given comes first: causes are asked for along the way from the latents
    to the samples, and what is wrong early explains what is wrong later.
    """
    return sorted((f for f in found if f is not None), key=lambda f: -f.weight)


def table(found: list[Finding]) -> list[str]:
    """Lines for the terminal."""
    if not found:
        return ["nothing found: no known cause of a bad training shows in this run"]
    lines = ["1 finding" if len(found) == 1 else f"{len(found)} findings, heaviest first"]
    for number, finding in enumerate(found, 1):
        lines.append(f"{number}. {finding.title} ({WORDS[finding.weight]})")
        lines += [f"     {line}" for line in finding.evidence]
        lines.append(f"     do: {finding.do_this}")
    return lines
