"""The table of cases: the notebook's number, the formula's, today's measurement, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentdiff.notebook.entry import TODAY, Case
from latentdiff.training import verdict as words

NEAR = 0.05
"""Relative difference up to which two numbers count as the same."""
FAR_OFF = 2.0
"""Factor by which the spread of samples may differ from that of latents without a remark."""
LOSSES = {"mse": "MSE loss", "l1": "L1 loss", "huber": "Huber loss"}


@dataclass(frozen=True)
class Row:
    """One case of one entry, as in table.json."""

    entry: str
    case: str
    """Empty for the only case of an entry."""
    unit: str
    """Unit of the three numbers, such as `MSE loss`."""
    user: float | None
    """The number in the notebook; None if there is none."""
    formula: float | None
    """The number by arithmetic; None without a formula."""
    measured: float | None
    """Today's measurement; None if there was none."""
    skill: float | None
    """Skill of the model that was trained; None if none was."""
    verdict: str
    """Conclusion from the numbers, in words."""
    problem: str | None = None
    """Why the case could not be run; None if it was."""

    @property
    def label(self) -> str:
        """Entry and case, such as `N35 (MSE)`."""
        return f"{self.entry} ({self.case})" if self.case else self.entry


@dataclass(frozen=True)
class CaseResult:
    """The numbers of a case; see `Row`."""

    formula: float | None = None
    measured: float | None = None
    skill: float | None = None
    problem: str | None = None


def row(entry: str, case: Case, loss: str, result: CaseResult) -> Row:
    """The row of a case; `loss`: the one it was trained on, mse, l1 or huber."""
    return Row(
        entry,
        case.name,
        unit(case, loss),
        case.user,
        result.formula,
        result.measured,
        result.skill,
        verdict(case, result),
        result.problem,
    )


def unit(case: Case, loss: str) -> str:
    """Unit of a case's numbers."""
    if case.how == "formula" and case.formula is not None and case.formula.of != "loss":
        return case.formula.of
    return LOSSES[loss] if case.measure == "loss" else case.measure.replace("_", " ")


def verdict(case: Case, result: CaseResult) -> str:
    """Conclusion from the numbers, in words."""
    if result.problem:
        return f"could not be run: {result.problem}"
    if result.measured is None:
        return _of_formula(case.user, result.formula)
    if case.measure == "loss":
        return _of_loss(result.measured, result)
    if case.measure == "skill":
        return _first_clause(words.skill(result.measured))
    if case.measure == "conditioning_gain":
        return _first_clause(words.conditioning(result.measured))
    return _of_spread(result.measured) if case.measure == "spread" else case.meaning or ""


def same(a: float | None, b: float | None) -> bool:
    """Whether both numbers are known and differ by at most NEAR."""
    return a is not None and b is not None and abs(a - b) <= NEAR * abs(b)


def text(rows: Sequence[Row]) -> str:
    """The table with its headings and a summary."""
    width = max(len(row.label) for row in rows)
    columns = f"{'unit':17} {'noted':>8} {'formula':>8} {'measured':>8} {'skill':>6}"
    head = f"{'entry':{width}}  {columns}"
    return "\n".join([f"{head}  verdict", *(_cells(row, width) for row in rows), *_foot(rows)])


def line(row: Row) -> str:
    """One row as a sentence."""
    numbers = (("noted", row.user), ("formula", row.formula), ("measured", row.measured))
    known = ", ".join(f"{name} {_number(value)}" for name, value in numbers if value is not None)
    return f"{row.label}: {known} ({row.unit}): {row.verdict}"


def _cells(row: Row, width: int) -> str:
    numbers = (_number(value).rjust(8) for value in (row.user, row.formula, row.measured))
    skill = "-" if row.skill is None else f"{row.skill:.2f}"
    return f"{row.label:{width}}  {row.unit:17} {' '.join(numbers)} {skill:>6}  {row.verdict}"


def _foot(rows: Sequence[Row]) -> list[str]:
    """A summary: how many numbers match their formula, and the skill of today's settings."""
    known = [row for row in rows if row.formula is not None and row.measured is not None]
    agree = sum(same(row.measured, row.formula) for row in known)
    lines = ["skill 0: no better than knowing only the variance of each channel; 1: perfect"]
    if known:
        lines.append(
            f"{agree} of {len(known)} measured numbers match their formula within {NEAR:.0%}"
        )
    today = [row.skill for row in rows if row.entry == TODAY and row.skill is not None]
    if today:
        lines.append(f"today's settings reach skill {today[0]:.2f} on the same latents")
    return lines


def _of_formula(user: float | None, formula: float | None) -> str:
    if user is None:
        return "by arithmetic"
    if same(user, formula):
        return "arithmetic gives the number noted"
    return "arithmetic does not give the number noted"


def _of_loss(measured: float, result: CaseResult) -> str:
    if same(measured, result.formula):
        return "the formula's loss: nothing was learned"
    if result.formula is not None and measured > result.formula:
        return "above the formula's loss: worse than knowing nothing"
    return _first_clause(words.skill(0.0 if result.skill is None else result.skill))


def _first_clause(text: str) -> str:
    """The text without the reason or advice that follows."""
    return text.partition(":")[0].partition(";")[0]


def _of_spread(spread: float) -> str:
    if spread > FAR_OFF:
        return f"samples spread {spread:.3g} times as widely as the latents"
    if spread < 1 / FAR_OFF:
        return f"samples spread {1 / spread:.3g} times less than the latents: near silence"
    return "samples spread about as widely as the latents"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
