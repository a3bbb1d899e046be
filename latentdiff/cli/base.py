"""What every command is built from: groups, shared options, logging, exit codes.

`--help` must answer without importing torch, so no file of this package imports anything heavier
than the errors at its top.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff import __version__
from latentdiff.cli import rave_line, rave_words
from latentdiff.errors import EXIT_CODES, EXIT_OK, EXIT_SKIPPED

if TYPE_CHECKING:
    from latentdiff.runs import Run

log = logging.getLogger("latentdiff")

PATH = click.Path(path_type=Path)
DEVICES = ["auto", "cpu", "cuda", "mps"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class WholeNumbers(click.ParamType):
    """Whole numbers from 1, separated by commas."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) > 0 for word in words):
            self.fail(f"'{value}' is not a list of numbers such as 16,200", param, ctx)
        return tuple(int(word) for word in words)


class Command(click.Command):
    """A command with a help text that ends with an example to paste."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nExample:\n")
        for line in self.example.splitlines():
            formatter.write(f"  {line}\n")


class Group(click.Group):
    """A group that lists commands in the order declared and suggests names for mistyped ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def known_words(self, ctx: click.Context) -> list[str]:
        """Names that a mistyped one is compared with."""
        return self.list_commands(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0].replace("_", "-")) is None:
            from latentdiff.config import did_you_mean

            hint = did_you_mean(args[0], self.known_words(ctx))
            ctx.fail(f"No such command '{args[0]}'{hint}")
        return super().resolve_command(ctx, args)


class Root(Group):
    """The top-level command: knows RAVE's words too, and its help ends with the exit codes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name: _long_options(command) for name, command in self.commands.items()}
        translation = rave_line.translate(args, own)
        if not {"-q", "--quiet"} & set(args):
            for line in translation.notes:
                click.echo(line, err=True)
        return super().parse_args(ctx, translation.words)

    def known_words(self, ctx: click.Context) -> list[str]:
        """Our commands, and RAVE's."""
        return [*self.list_commands(ctx), *rave_words.COMMANDS]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@click.group(
    cls=Root,
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
    The steps, each reading what the one before it wrote:
      preprocess -> train-rave -> encode -> train-diffusion -> sample -> decode
    `latentdiff quickstart` runs all of them on a small scale, and ends with
    audio you can play.

    Any setting of the YAML can follow the options as KEY=VALUE, such as training.steps=20000;
    `latentdiff config schema --table` lists them all.
    """


def _long_options(command: click.Command) -> set[str]:
    """Names without dashes."""
    options = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
    return {name.removeprefix("--") for name in options if name.startswith("--")}


class _Console(logging.Handler):
    """Messages to stdout, warnings to stderr, without breaking a progress bar."""

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


def verbosity_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v and -q, and set up logging accordingly."""

    @click.option("-v", "--verbose", is_flag=True, help="Print details, and tracebacks of errors.")
    @click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
    @functools.wraps(function)
    def wrapped(verbose: bool, quiet: bool, **options: Any) -> Any:
        _set_up_logging(verbose, quiet)
        return function(**options)

    return wrapped


seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of all random draws. [the config's]"
)
device_option = click.option(
    "--device", type=click.Choice(DEVICES), help="Where to compute. [the config's]"
)
rave_option = click.option(
    "--rave", type=PATH, help="Another RAVE: a run's folder, a `rave train` run, or a model.ts."
)
validation_option = click.option(
    "--validation",
    "validation_audio",
    type=PATH,
    multiple=True,
    help="Folder or file to hold out, outside of --audio; repeatable.",
)
ckpt_option = click.option("--ckpt", help="Checkpoint of RAVE: last, best, or a path. [last]")
format_option = click.option(
    "--format",
    "audio_format",
    type=click.Choice(["wav", "flac"]),
    default="wav",
    show_default=True,
    help="Format of audio files.",
)
diffusion_option = click.option(
    "--diffusion", type=PATH, help="Another diffusion folder or .safetensors file."
)
trained_latents_option = click.option(
    "--latents", type=PATH, help="Latents the model was trained on. [the run's]"
)
run_option = click.option("--run", type=PATH, required=True, help="Run directory.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Delete what this command made before, and start over."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Run the checks, but write nothing.")


def add_options(*decorators: Decorator) -> Decorator:
    """Several options as one decorator; `--help` lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(decorators):
            function = option(function)
        return function

    return decorate


config_options = add_options(
    click.option("-c", "--config", "config_file", type=PATH, help="YAML file with settings."),
    click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
)
"""-c and KEY=VALUE words, passed on as `config_file` and `settings`."""

project_options = add_options(config_options, seed_option, device_option)
"""-c, --seed, --device and KEY=VALUE words: everything that sets the config."""


def finish(skipped: list[str], noun: str = "file", verb: str = "skipped") -> int:
    """The exit code of a command that finished; lists what it skipped ("path: reason")."""
    if not skipped:
        return EXIT_OK
    plural = "s" if len(skipped) > 1 else ""
    log.warning("finished; %d %s%s %s:", len(skipped), noun, plural, verb)
    for line in skipped:
        log.warning("  %s", line)
    return EXIT_SKIPPED


def stage_command(
    example: str,
    upstream: tuple[str, ...] = (),
    run_as_word: bool = False,
    run_replaced_by: str | None = None,
    group: click.Group = cli,
    skips: str = "file",
    beneath: Callable[[Run, dict[str, Any]], dict[str, Any]] | None = None,
) -> Callable[[Callable[..., list[str]]], click.Command]:
    """Declare a command that works on a run directory.

    `upstream`: stages it reads, whose settings must match the config. An option of the same name
    (`--latents DIR`) replaces the run's own stage and skips that check. `run_as_word`: the first
    word may be the run directory, without --run. `run_replaced_by`: an option that makes the run
    directory optional; the worker may then be given None. `skips`: what the worker's return value
    lists, in the singular. `beneath`: from the run and the options, settings that hold where none
    are given now.
    """

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
            own = None if run is None else Run(run)
            fixed = beneath(own, options) if beneath is not None and own is not None else None
            chosen = {"seed": seed, "device": device, **_validation_settings(options)}
            project = resolve(own, config_file, settings, chosen, fixed)
            where = None if own is None else _with_places(own, options)
            check_upstream(project, [getattr(own, s) for s in upstream if not options.get(s)])
            return finish(worker(where, project, **options), skips)

        run = click.option("--run", type=PATH, required=not run_as_word, help="Run directory.")
        add = add_options(run, overwrite_option, dry_run_option, project_options)
        function = add(verbosity_options(call))
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


def _validation_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that --validation stands for, so that the run remembers them; taken out of
    `options`."""
    audio, latents = options.pop("validation_audio", ()), options.pop("validation_latents", None)
    return {
        "data": {"validation_audio": [str(path) for path in audio]} if audio else None,
        "training": {"validation_latents": str(latents.resolve())} if latents else None,
    }


def _with_places(run: Run, options: dict[str, Any]) -> Run:
    """The run, with the dataset, RAVE and latents that options named, now or earlier.

    A dataset given earlier is filled into `options`. A RAVE given earlier only replaces the run's
    own, if that is missing: latents that name their codec come first. Of latents only the folder
    that `encode` writes counts, which is taken out of `options`.
    """
    earlier = run.read_elsewhere()
    latents = options.pop("latents_output", None)
    if latents is None and not run.latents.exists():
        latents = earlier.get("latents")
    if "dataset" in options and options["dataset"] is None and not run.dataset.exists():
        options["dataset"] = earlier.get("dataset")
    rave = options.get("rave")
    if options.get("ckpt") is not None:
        rave = None  # its folder alone would stand for another checkpoint
    elif "rave" in options and rave is None and not run.rave.exists():
        rave = earlier.get("rave")
    return replace(
        run,
        dataset_elsewhere=options.get("dataset"),
        rave_elsewhere=rave,
        latents_elsewhere=latents,
    )


def plain_command(
    example: str, group: click.Group = cli, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that needs no run directory."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        command = click.command(cls=Command, example=example, **settings)
        added = command(verbosity_options(function))
        group.add_command(added)
        return added

    return decorate
