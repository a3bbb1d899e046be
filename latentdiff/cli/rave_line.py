"""From a command line in RAVE's words to ours, by the table in `rave_words`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import click

from latentdiff.cli.rave_words import COMMANDS, Ours, RaveCommand, typed


@dataclass(frozen=True)
class Translation:
    """A command line in our words."""

    words: list[str]
    notes: list[str]
    """Lines for the user; empty if the words are as typed."""


def translate(words: Sequence[str], own: Mapping[str, Collection[str]]) -> Translation:
    """A command line without the program's name in our words, as far as they are RAVE's.

    `own`: our commands -> the long options of each, without dashes. Raises UserError where we lack
    what a word of RAVE asks for, and click.NoSuchOption for one that is almost a word of RAVE.
    """
    name = words[0].replace("_", "-") if words else ""
    command = COMMANDS.get(name) or next((x for x in COMMANDS.values() if x.ours == name), None)
    if command is None and name in own:
        command = RaveCommand(name)
    if command is None or (command.ours is None and name in own):
        return Translation(list(words), [])
    given, rest = _read(words[1:], command, own.get(command.ours or "", ()))
    if command.ours is None:
        assert command.instead is not None
        raise command.instead(given)
    ours = sum((command.flags[flag].translate(given, flag) for flag in given), Ours())
    first = words[0] if name == command.ours else command.ours
    translated = [first, *rest, *ours.options, *ours.settings]
    if translated == list(words):
        return Translation(translated, [])
    return Translation(
        translated, [f"run as: {shlex.join(['latentdiff', *translated])}", *ours.notes]
    )


def _read(
    words: Sequence[str], command: RaveCommand, own: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """RAVE's flags with their values, and all other words."""
    named = {flag for word in words if (flag := _flag_of(word, command, own))}
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            rest += words[position - 1 :]
            break
        flag = _flag_of(word, command, own)
        if flag is None:
            rest.append(word)
            continue
        known, (_, equals, value) = command.flags.get(flag), word.partition("=")
        dashed = f"--{flag}{equals}{value}"  # RAVE's parser takes -ckpt for --ckpt
        if known is None or (known.beside is not None and known.beside not in named):
            rest.append(dashed)
            continue
        if known.switch:
            off = _plain(word) != flag or value.lower() in ("false", "f", "no", "0")
            given.setdefault(flag, []).append("false" if off else "true")
            continue
        if not equals:
            if position == len(words):
                rest.append(dashed)  # click says that it needs a value
                continue
            value = words[position]
            position += 1
        if known.is_ours(value):
            rest += [f"--{flag}", value]
        else:
            given.setdefault(flag, []).append(value)
    return given, rest


def _plain(word: str) -> str:
    """`--db_path=x` -> `db-path`."""
    return word.partition("=")[0].lstrip("-").replace("_", "-")


def _flag_of(word: str, command: RaveCommand, own: Collection[str]) -> str | None:
    """The flag of RAVE or the long option of ours that a word names; None: something else.

    Raises click.NoSuchOption for a word that is neither, but close to one of RAVE.
    """
    plain = _plain(word)
    # -v and -c are short options, not names.
    if not word.startswith("-") or len(plain) < 2:
        return None
    if plain in command.flags or plain in own:
        return plain
    positive = plain.removeprefix("no")
    if positive in command.flags and command.flags[positive].switch:
        return positive
    near = difflib.get_close_matches(plain, command.flags, n=1, cutoff=0.8)
    if word.startswith("--") and near:
        raise click.NoSuchOption(word.partition("=")[0], possibilities=[typed(near[0])])
    return None
