"""The files of configs/notebook: what an entry tells, and what is done to see it again."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from latentdiff import config
from latentdiff.config import Section
from latentdiff.errors import UserError

LAST = 119
"""The notebook's entries are N1 to N119."""
TODAY = "today"
"""The entry beside them: the settings one would choose now."""

How = Literal["train", "command", "formula"]
Quantity = Literal["loss", "skill", "conditioning_gain", "spread", "number"]


class Formula(Section):
    """A closed form; see `formulas`."""

    of: str
    """Its name."""
    given: dict[str, Any] = {}
    """Its arguments by name."""


class Case(Section):
    """One number of an entry: the user's, the formula's, and how it is measured again."""

    name: str = ""
    """Which of the entry's cases it is; empty where it is the only one."""
    user: float | None = None
    """What the user noted; null where it was no number."""
    formula: Formula | None = None
    """What arithmetic says without any training; null where nothing short can be said."""
    how: How = "train"
    """train: with the file's sections. command: by what `commands` leave. formula: not at all."""
    settings: dict[str, Any] = {}
    """Sections and keys that this case has over those of the file."""
    commands: tuple[str, ...] = ()
    """Commands of latentdiff, run in turn, after the training where there is one. {case}: the run
    directory of the case, {shared}: one for all of the file, {latents}: the latents at hand."""
    measure: Quantity = "loss"
    """What is compared. loss: on held-out windows, in its own units. skill, conditioning_gain: of
    the same. spread: of samples over latents. number: read where `at` says."""
    at: str | None = None
    """`FILE:KEY.KEY`, with the same words in braces: a number in a JSON file; of a list of numbers
    the median, of another its length. null: where `measure` has its place."""
    meaning: str | None = None
    """Of such a number, in words."""

    @model_validator(mode="after")
    def _is_measured_somewhere(self) -> Case:
        if (self.measure == "number") != (self.at is not None) and self.how != "formula":
            raise ValueError("a number needs `at`, everything else has its own place")
        if self.how == "formula" and self.formula is None:
            raise ValueError("a case that is not measured needs a formula")
        if self.how == "command" and not self.commands:
            raise ValueError("a case measured by commands needs some")
        return self


class Entry(Section):
    """What one entry of the notebook says."""

    title: str = Field(max_length=76)
    """One line."""
    saw: str | None = None
    """What the user saw, and concluded, where the title does not say it."""
    because: str | None = None
    """Its own cause, where that of the whole file does not say it."""
    cases: tuple[Case, ...] = ()
    """What `notebook run` does about it; none where there is nothing to run."""
    see: str | None = None
    """Without cases: the command or the page that answers it."""

    @property
    def kind(self) -> str:
        """How it is answered, in a word."""
        if not self.cases:
            return "read"
        hows = [case.how for case in self.cases]
        return "train" if "train" in hows else hows[0]

    @model_validator(mode="after")
    def _is_answered(self) -> Entry:
        if bool(self.cases) == bool(self.see):
            raise ValueError("an entry has cases to run, or something to see; not both")
        return self


class Story(Section):
    """The section `notebook` of a file: entries with one cause."""

    title: str
    """Of them all."""
    cause: str
    """Why they came out as they did, as far as it is known."""
    answer: str
    """What in latentdiff answers it."""
    entries: dict[str, Entry]
    """By number, such as N34."""


@dataclass(frozen=True)
class Experiment:
    """A file of configs/notebook."""

    path: Path
    story: Story
    sections: dict[str, Any] = field(repr=False)
    """The file's other sections: those of any config file."""


def folder() -> Path:
    """Where the files lie, in a checkout and in an installed package."""
    return Path(str(importlib.resources.files("latentdiff"))) / "configs" / "notebook"


def load(path: Path) -> Experiment:
    """A file of configs/notebook. Raises ConfigError where it is not as it should be."""
    values = config.read_yaml(path)
    story = config.build(Story, values.pop("notebook", {}), f"{path}: notebook")
    return Experiment(path, story, values)


def load_all() -> dict[str, Experiment]:
    """The file of each entry, from N1 on; `today` comes last."""
    found = [load(path) for path in sorted(folder().glob("*.yaml"))]
    by_name = {name: experiment for experiment in found for name in experiment.story.entries}
    return {name: by_name[name] for name in sorted(by_name, key=order)}


def find(names: Sequence[str]) -> dict[str, Experiment]:
    """Those of some entries, in the notebook's order; `n34` and `34` name N34.

    Raises UserError for a name that is none.
    """
    every = load_all()
    wanted = [_canonical(name) for name in names]
    for name in wanted:
        if name not in every:
            raise UserError(
                f"the notebook has no entry {name}",
                why=f"its entries are N1 to N{LAST}",
                do_this="`latentdiff notebook list` shows them.",
            )
    return {name: every[name] for name in every if name in wanted}


def _canonical(name: str) -> str:
    return f"N{name.lstrip('nN')}" if name.lstrip("nN").isdecimal() else name.lower()


def order(name: str) -> int:
    return int(name[1:]) if name[1:].isdecimal() else LAST + 1
