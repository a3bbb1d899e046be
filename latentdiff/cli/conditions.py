"""The options of condition kinds, as the registry declares them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from latentdiff.conditions.registry import Option, options


def condition_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all kinds; the command gets them as `options`, name -> words."""
    declared = [option for _, option in options()]

    @functools.wraps(command)
    def collected(*args: Any, **given: Any) -> Any:
        words = {option.name: _words(given.pop(option.name)) for option in declared}
        return command(*args, options={k: x for k, x in words.items() if x}, **given)

    wrapped: Callable[..., Any] = collected
    for option in reversed(declared):
        wrapped = _as_click(option)(wrapped)
    return wrapped


def _as_click(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{option.name}", metavar=option.metavar, multiple=option.repeatable, help=option.help
    )


def _words(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
