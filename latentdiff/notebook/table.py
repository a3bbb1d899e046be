"""The numbers of the notebook side by side: the user's, the formula's, today's; in words too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentdiff.notebook.entry import TODAY, Case
from latentdiff.training import verdict as words

NEAR = 0.05
"""Relative difference up to which two numbers are called the same."""
FAR_OFF = 2.0
"""Factor by which the spread of samples may differ from that of the latents."""
LOSSES = {"mse": "MSE loss", "l1": "L1 loss", "huber": "Huber loss"}


@dataclass(frozen=True)
class Row:
    """One case of one entry."""

    entry: str
    case: str
    unit: str
    """What the numbers are of."""
    user: float | None
    formula: float | None
    measured: float | None
    skill: float | None
    """Of what was trained, over a model that knows each channel's variance only."""
    verdict: str
    problem: str | None = None
    """Why it could not be run."""

    @property
    def label(self) -> str:
        """Entry and case."""
        return f"{self.entry} ({self.case})" if self.case else self.entry


@dataclass(frozen=True)
class Found:
    """What came out of a case; None where it was not to be had."""

    formula: float | None = None
    measured: float | None = None
    skill: float | None = None
    problem: str | None = None


def row(entry: str, case: Case, loss: str, found: Found) -> Row:
    """A case with what came out of it; `loss` is what it was trained on: mse, l1 or huber."""
    return Row(
        entry,
        case.name,
        unit(case, loss),
        case.user,
        found.formula,
        found.measured,
        found.skill,
        verdict(case, found),
        found.problem,
    )


def unit(case: Case, loss: str) -> str:
    """What the numbers of a case are of."""
    if case.how == "formula" and case.formula is not None and case.formula.of != "loss":
        return case.formula.of
    return LOSSES[loss] if case.measure == "loss" else case.measure.replace("_", " ")


def verdict(case: Case, found: Found) -> str:
    """What the numbers mean."""
    if found.problem:
        return f"could not be run: {found.problem}"
    if found.measured is None:
        return _of_formula(case.user, found.formula)
    if case.measure == "loss":
        return _of_loss(found.measured, found)
    if case.measure == "skill":
        return _short(words.skill(found.measured))
    if case.measure == "conditioning_gain":
        return _short(words.conditioning(found.measured))
    return _of_spread(found.measured) if case.measure == "spread" else case.meaning or ""


def same(a: float | None, b: float | None) -> bool:
    """Whether two numbers are told and alike."""
    return a is not None and b is not None and abs(a - b) <= NEAR * abs(b)


def text(rows: Sequence[Row]) -> str:
    """All rows, today's last, under their headings."""
    width = max(len(row.label) for row in rows)
    head = f"{'entry':{width}}  {'in':17} {'user':>8} {'formula':>8} {'measured':>8} {'skill':>6}"
    return "\n".join([f"{head}  verdict", *(_cells(row, width) for row in rows), *_foot(rows)])


def line(row: Row) -> str:
    """One row in a line of its own."""
    numbers = (("user", row.user), ("formula", row.formula), ("measured", row.measured))
    told = ", ".join(f"{name} {_number(value)}" for name, value in numbers if value is not None)
    return f"{row.label}: {told} ({row.unit}): {row.verdict}"


def _cells(row: Row, width: int) -> str:
    numbers = (_number(value).rjust(8) for value in (row.user, row.formula, row.measured))
    skill = "-" if row.skill is None else f"{row.skill:.2f}"
    return f"{row.label:{width}}  {row.unit:17} {' '.join(numbers)} {skill:>6}  {row.verdict}"


def _foot(rows: Sequence[Row]) -> list[str]:
    """How many entries came out as arithmetic says, and what one gets today."""
    known = [row for row in rows if row.formula is not None and row.measured is not None]
    agree = sum(same(row.measured, row.formula) for row in known)
    lines = [
        "skill 0: no better than a model that knows only the variance of each channel; 1: perfect"
    ]
    if known:
        lines.append(
            f"{agree} of {len(known)} measured numbers are the formula's, within {NEAR:.0%}"
        )
    today = [row.skill for row in rows if row.entry == TODAY and row.skill is not None]
    if today:
        lines.append(f"today's settings on the same latents: skill {today[0]:.2f}")
    return lines


def _of_formula(user: float | None, formula: float | None) -> str:
    if user is None:
        return "by arithmetic"
    return "the number noted, by arithmetic" if same(user, formula) else "not the number noted"


def _of_loss(measured: float, found: Found) -> str:
    if same(measured, found.formula):
        return "as the formula says: nothing was learned"
    if found.formula is not None and measured > found.formula:
        return "above the formula: worse than knowing nothing"
    return _short(words.skill(0.0 if found.skill is None else found.skill))


def _short(text: str) -> str:
    """What is said before the reason, or the advice."""
    return text.partition(":")[0].partition(";")[0]


def _of_spread(spread: float) -> str:
    if spread > FAR_OFF:
        return f"samples {spread:.3g} times as strong as the latents"
    if spread < 1 / FAR_OFF:
        return f"samples {1 / spread:.3g} times weaker than the latents: near silence"
    return "samples about as strong as the latents"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
