"""The files of configs/notebook: the entries' texts, and how each is reproduced."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from latentdiff import config
from latentdiff.config import Section, Values
from latentdiff.errors import UserError

LAST = 119
"""The notebook's entries are N1 to N119."""
TODAY = "today"
"""One more entry: today's recommended settings."""

How = Literal["train", "command", "formula"]
Quantity = Literal["loss", "skill", "conditioning_gain", "spread", "number"]


class Formula(Section):
    """A closed form; see `formulas`."""

    of: str
    """Name of the function."""
    given: Values = {}
    """Arguments by name."""


class Case(Section):
    """One number of an entry: the notebook's, the formula's, and how to measure it today."""

    name: str = ""
    """Name among the entry's cases; empty if it is the only one."""
    user: float | None = None
    """The number in the notebook; null if there is none."""
    formula: Formula | None = None
    """The number by arithmetic, without any training; null if there is no short formula."""
    how: How = "train"
    """How it is measured. train: by training with the file's sections. command: by `commands`.
    formula: not at all, the formula is the answer."""
    settings: Values = {}
    """Sections and keys that override those of the file."""
    commands: tuple[str, ...] = ()
    """latentdiff commands, run in turn, after the training if there is one. {case}: the run
    directory of the case, {shared}: one for the whole file, {latents}: the latents to run on."""
    measure: Quantity = "loss"
    """What is compared. loss, skill, conditioning_gain: on held-out windows. spread: standard
    deviation of samples over that of latents. number: read from the place `at`."""
    at: str | None = None
    """`FILE:KEY.KEY`, with the same words in braces: a number in a JSON file; the median of a list
    of numbers; the length of any other list. null: the usual place of `measure`."""
    meaning: str | None = None
    """Meaning of the number, in words."""

    @model_validator(mode="after")
    def _can_be_measured(self) -> Case:
        if (self.measure == "number") != (self.at is not None) and self.how != "formula":
            raise ValueError("`at` must be set for `measure: number`, and for nothing else")
        if self.how == "formula" and self.formula is None:
            raise ValueError("`how: formula` needs a formula")
        if self.how == "command" and not self.commands:
            raise ValueError("`how: command` needs commands")
        return self


class Entry(Section):
    """One entry of the notebook."""

    title: str = Field(max_length=76)
    """One line."""
    saw: str | None = None
    """The user's observation and conclusion, unless the title states them."""
    because: str | None = None
    """The cause of this entry, beyond that of the whole file."""
    cases: tuple[Case, ...] = ()
    """Cases for `notebook run`; empty if there is nothing to run."""
    see: str | None = None
    """The command or page that answers an entry without cases."""

    @property
    def kind(self) -> str:
        """How it is answered: train, command, formula or read."""
        if not self.cases:
            return "read"
        hows = [case.how for case in self.cases]
        return "train" if "train" in hows else hows[0]

    @model_validator(mode="after")
    def _is_answered(self) -> Entry:
        if bool(self.cases) == bool(self.see):
            raise ValueError("an entry needs either `cases` or `see`")
        return self


class Story(Section):
    """The section `notebook` of a file: entries with a common cause."""

    title: str
    """Title of the file."""
    cause: str
    """Why these entries turned out as they did, as far as known."""
    answer: str
    """How latentdiff solves the problem."""
    entries: dict[str, Entry]
    """Entries by name, such as N34."""


@dataclass(frozen=True)
class Experiment:
    """A file of configs/notebook."""

    path: Path
    story: Story
    sections: Values = field(repr=False)
    """The file's other sections, as in any config file."""


def folder() -> Path:
    """The folder of the files, in a checkout and in an installed package."""
    return Path(str(importlib.resources.files("latentdiff"))) / "configs" / "notebook"


def load(path: Path) -> Experiment:
    """A file of configs/notebook. Raises ConfigError if it is not valid."""
    values = config.read_yaml(path)
    story = config.build(Story, values.pop("notebook", {}), f"{path}: notebook")
    return Experiment(path, story, values)


def load_all() -> dict[str, Experiment]:
    """The file of every entry, in the order of their numbers; `today` comes last."""
    stories = [load(path) for path in sorted(folder().glob("*.yaml"))]
    by_name = {name: experiment for experiment in stories for name in experiment.story.entries}
    return {name: by_name[name] for name in sorted(by_name, key=order)}


def find(names: Sequence[str]) -> dict[str, Experiment]:
    """The files of the entries named, in the notebook's order; `n34` and `34` also name N34.

    Raises UserError for an unknown name.
    """
    every = load_all()
    wanted = [_canonical(name) for name in names]
    for name in wanted:
        if name not in every:
            raise UserError(
                f"the notebook has no entry {name}",
                why=f"its entries are N1 to N{LAST}",
                do_this="list them with `latentdiff notebook list`.",
            )
    return {name: every[name] for name in every if name in wanted}


def _canonical(name: str) -> str:
    return f"N{name.lstrip('nN')}" if name.lstrip("nN").isdecimal() else name.lower()


def order(name: str) -> int:
    """Sorting key of an entry's name."""
    return int(name[1:]) if name[1:].isdecimal() else LAST + 1
