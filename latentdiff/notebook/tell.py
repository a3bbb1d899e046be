"""`notebook list` and `notebook show`: the notebook in words."""

from __future__ import annotations

import textwrap

from latentdiff.notebook import entry as entries
from latentdiff.notebook.entry import Case, Entry, Experiment

WIDTH = 96


def listing() -> str:
    """A line an entry: its number, how it is answered, its title."""
    every = entries.load_all()
    rows = [
        f"{name:5}  {_entry(name, x).kind:7}  {_entry(name, x).title}" for name, x in every.items()
    ]
    count = sum(bool(_entry(name, x).cases) for name, x in every.items())
    return "\n".join(
        [
            *rows,
            f"{count} can be run: `latentdiff notebook run N34 --run runs/techno`, or --all",
            "train: a small training; command: of latentdiff; formula: arithmetic; read: `show` it",
        ]
    )


def story(name: str) -> str:
    """What one entry tells: seen, why, what answers it, how it is run again."""
    ((name, experiment),) = entries.find([name]).items()
    found, whole = _entry(name, experiment), experiment.story
    told = [("of", whole.title), ("seen", found.saw), ("cause", whole.cause), ("", found.because)]
    told += [("answer", whole.answer), ("see", found.see)]
    parts = [f"{name}: {found.title}"]
    parts += [_paragraph(head, body) for head, body in told if body]
    parts += [_case(case) for case in found.cases]
    if found.cases:
        parts.append(f"run it: latentdiff notebook run {name} --run RUN   ({experiment.path.name})")
    return "\n".join(parts)


def _entry(name: str, experiment: Experiment) -> Entry:
    return experiment.story.entries[name]


def _paragraph(head: str, body: str) -> str:
    indent = " " * 9
    return textwrap.fill(
        f"{head and head + ':':9}{' '.join(body.split())}", WIDTH, subsequent_indent=indent
    )


def _case(case: Case) -> str:
    how = {"train": "train and measure", "command": "run", "formula": "compute"}[case.how]
    changed = f" with {case.settings}" if case.settings else ""
    commands = "".join(f"\n           $ latentdiff {line}" for line in case.commands)
    user = "" if case.user is None else f"; the user's: {case.user:g}"
    what = case.measure.replace("_", " ")
    return f"{'case:':9}{case.name or 'the only one'}: {how} {what}{changed}{user}{commands}"
