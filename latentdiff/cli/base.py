"""What all commands are made of: groups, shared options, logging, exit codes.

`--help` must answer without importing torch, so nothing heavier than the error family is imported
at the top of any file of this room.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentdiff import __version__
from latentdiff.errors import EXIT_LOSSES, EXIT_OK

log = logging.getLogger("latentdiff")

PATH = click.Path(path_type=Path)
DEVICES = ["auto", "cpu", "cuda", "mps"]


class WholeNumbers(click.ParamType):
    """Numbers of at least 1 with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) > 0 for word in words):
            self.fail(f"'{value}' is not like 16,200", param, ctx)
        return tuple(int(word) for word in words)


class Command(click.Command):
    """A command whose help ends with an example that can be pasted."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nExample:\n")
        for line in self.example.splitlines():
            formatter.write(f"  {line}\n")


class Group(click.Group):
    """A group that lists its commands as declared and suggests the one probably meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0].replace("_", "-")) is None:
            from latentdiff.config import did_you_mean

            hint = did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Group,
    context_settings={
        # RAVE's users type --db_path: `_` and `-` are the same in option and command names.
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="latentdiff")
def cli() -> None:
    """Turn a folder of recordings into a music generator: latent diffusion on RAVE.

    \b
    The chain, each command continuing where the one before it ended:
      preprocess -> train-rave -> encode -> train-diffusion -> sample -> decode
    `latentdiff quickstart` runs all of it, small, and ends in sound.

    After the options any setting of the YAML can be given as KEY=VALUE (training.steps=20000);
    `latentdiff config schema --table` lists them.
    """


class _Console(logging.Handler):
    """Messages on stdout, warnings on stderr, neither breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        warning = record.levelno >= logging.WARNING
        text = ("warning: " if warning else "") + self.format(record)
        tqdm.write(text, file=sys.stderr if warning else sys.stdout)
        (sys.stderr if warning else sys.stdout).flush()


def _set_up_logging(verbose: bool, quiet: bool) -> None:
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    log.handlers = [_Console()]
    log.propagate = False


def loudness(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v and -q and act on them."""

    @click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
    @click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
    @functools.wraps(function)
    def wrapped(verbose: bool, quiet: bool, **options: Any) -> Any:
        _set_up_logging(verbose, quiet)
        return function(**options)

    return wrapped


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-c and KEY=VALUE words, handed on as `config_file` and `settings`."""
    function = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.option(
        "-c", "--config", "config_file", type=PATH, help="YAML file of the project."
    )(function)


def project_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-c, --seed, --device and KEY=VALUE words: what decides the resolved config."""
    for decorate in (
        click.option("--device", type=click.Choice(DEVICES)),
        click.option("--seed", type=click.IntRange(min=0), help="Of all random draws."),
        config_options,
    ):
        function = decorate(function)
    return function


def finish(losses: list[str]) -> int:
    if not losses:
        return EXIT_OK
    log.warning("done, but with %d loss(es):", len(losses))
    for loss in losses:
        log.warning("  %s", loss)
    return EXIT_LOSSES


def stage_command(
    example: str,
    upstream: tuple[str, ...] = (),
    run: Path | None = None,
    run_as_word: bool = False,
    run_replaced_by: str | None = None,
    group: click.Group = cli,
) -> Callable[[Callable[..., list[str]]], click.Command]:
    """A command that works on a run directory.

    `upstream`: stages it reads, whose settings may not be contradicted. An option of the same name
    (`--latents DIR`) replaces the run's own stage and lifts that check. `run_as_word`: the first
    word may be the run directory, without --run. `run_replaced_by`: an option of the command that
    makes the run directory optional; the worker may then be given None.
    """

    needed: dict[str, Any] = {"required": not run_as_word} if run is None else {"default": run}

    def decorate(worker: Callable[..., list[str]]) -> click.Command:
        def call(
            run: Path | None,
            config_file: Path | None,
            settings: tuple[str, ...],
            seed: int | None,
            device: str | None,
            **options: Any,
        ) -> int:
            from latentdiff.model.project import check_upstream, resolve
            from latentdiff.runs import Run

            if run is None:
                optional = run_replaced_by is not None and options.get(run_replaced_by) is not None
                run, settings = _run_of_words(settings, optional)
            where = None if run is None else Run(run)
            project = resolve(where, config_file, settings, {"seed": seed, "device": device})
            check_upstream(project, [getattr(where, s) for s in upstream if not options.get(s)])
            return finish(worker(where, project, **options))

        function: Callable[..., Any] = project_options(loudness(call))
        for option in (
            click.option("--dry-run", is_flag=True, help="Check and tell, but write nothing."),
            click.option("--overwrite", is_flag=True, help="Make the stage anew."),
            click.option("--run", type=PATH, help="The run directory.", **needed),
        ):
            function = option(function)
        function.__click_params__ += getattr(worker, "__click_params__", [])  # type: ignore[attr-defined]
        name = worker.__name__.replace("_", "-")
        command = click.command(name, cls=Command, example=example, help=worker.__doc__)(function)
        group.add_command(command)
        return command

    return decorate


def _run_of_words(words: tuple[str, ...], optional: bool) -> tuple[Path | None, tuple[str, ...]]:
    """`runs/techno sampling.steps=8` -> the run directory, and the settings after it."""
    if not words or "=" in words[0]:
        if optional:
            return None, words
        raise click.UsageError("name the run directory: runs/techno, or --run runs/techno")
    return Path(words[0]), words[1:]


def plain_command(example: str, group: click.Group = cli, **options: Any) -> Callable[..., Any]:
    """A command that needs no project."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return group.command(cls=Command, example=example, **options)(loudness(function))

    return decorate


rave_option = click.option(
    "--rave", type=PATH, help="Another RAVE: a run's folder, a `rave train` run, or a model.ts."
)
ckpt_option = click.option("--ckpt", help="last, best, or the path of a checkpoint.")
