"""`notebook list` and `notebook show`: the notebook as text."""

from __future__ import annotations

import textwrap

from latentdiff.notebook import entry as entries
from latentdiff.notebook.entry import Case, Entry, Experiment

WIDTH = 96


def listing() -> str:
    """One line per entry: its number, how it is answered, its title."""
    every = entries.load_all()
    rows = [
        f"{name:5}  {_entry(name, x).kind:7}  {_entry(name, x).title}" for name, x in every.items()
    ]
    count = sum(bool(_entry(name, x).cases) for name, x in every.items())
    return "\n".join(
        [
            *rows,
            f"{count} can be run: `latentdiff notebook run N34 --run runs/techno`, or --all",
            "train: a small training; command: a latentdiff command; formula: arithmetic; "
            "read: see `latentdiff notebook show`",
        ]
    )


def story(name: str) -> str:
    """One entry: what was seen, why, what latentdiff does about it, and how to rerun it."""
    ((name, experiment),) = entries.find([name]).items()
    entry, whole = _entry(name, experiment), experiment.story
    texts = [("of", whole.title), ("seen", entry.saw), ("cause", whole.cause), ("", entry.because)]
    texts += [("answer", whole.answer), ("see", entry.see)]
    parts = [f"{name}: {entry.title}"]
    parts += [_paragraph(head, body) for head, body in texts if body]
    parts += [_case(case) for case in entry.cases]
    if entry.cases:
        command = f"latentdiff notebook run {name} --run RUN"
        parts.append(f"{'rerun:':9}{command}   ({experiment.path.name})")
    return "\n".join(parts)


def _entry(name: str, experiment: Experiment) -> Entry:
    return experiment.story.entries[name]


def _paragraph(head: str, body: str) -> str:
    indent = " " * 9
    return textwrap.fill(
        f"{head and head + ':':9}{' '.join(body.split())}", WIDTH, subsequent_indent=indent
    )


def _case(case: Case) -> str:
    ways = {"train": "train, then measure", "command": "run commands", "formula": "compute"}
    changed = f" with {case.settings}" if case.settings else ""
    commands = "".join(f"\n           $ latentdiff {line}" for line in case.commands)
    noted = "" if case.user is None else f"; noted: {case.user:g}"
    what = f" {case.measure.replace('_', ' ')}" if case.how == "train" else ""
    way = ways[case.how] + what
    return f"{'case:':9}{case.name or 'the only one'}: {way}{changed}{noted}{commands}"
