"""The `latentdiff` command: options are declared here, workers imported inside the commands.

Click lives in this file only. `--help` must answer without importing torch, so nothing heavier than
the error family is imported at the top.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff import __version__
from latentdiff.errors import (
    EXIT_BROKEN,
    EXIT_INTERRUPTED,
    EXIT_LOSSES,
    EXIT_OK,
    EXIT_USER_ERROR,
    UserError,
)

if TYPE_CHECKING:
    from latentdiff.runs import Run
    from latentdiff.workflows.project import Project

log = logging.getLogger("latentdiff")

PATH = click.Path(path_type=Path)
DEVICES = ["auto", "cpu", "cuda", "mps"]
LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"


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


def main() -> None:
    """Entry point: runs the command line and turns every ending into an exit code."""
    # Threads of a parallel loop that wait for each other spin 300,000 rounds before they sleep.
    # Beside other busy processes that makes a training 2 to 20 times slower; 3,000 rounds cost
    # nothing measurable on an idle machine. Read by libgomp when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    signal.signal(signal.SIGTERM, _terminate)
    verbose = bool({"-v", "--verbose"} & set(sys.argv))
    try:
        _refuse_long_dashes(sys.argv[1:])
        sys.exit(cli.main(standalone_mode=False) or EXIT_OK)
    except UserError as error:
        if verbose:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER_ERROR)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command again continues", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_BROKEN)
    except Exception:
        traceback.print_exc()
        click.echo(
            "\nThis is a fault of latentdiff, not yours. Please report the lines above with the "
            "output of `latentdiff doctor`.",
            err=True,
        )
        sys.exit(EXIT_BROKEN)


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


def _refuse_long_dashes(words: list[str]) -> None:
    for word in words:
        if word[:1] and word[0] in LONG_DASHES:
            meant = "--" + word.lstrip(LONG_DASHES + "-")
            raise UserError(
                f"'{word}' starts with a long dash (U+{ord(word[0]):04X}), not with --",
                why="text editors and web pages turn -- into it",
                do_this=f"type {meant}",
            )


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


def _loudness(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v and -q and act on them."""

    @click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
    @click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
    @functools.wraps(function)
    def wrapped(verbose: bool, quiet: bool, **options: Any) -> Any:
        _set_up_logging(verbose, quiet)
        return function(**options)

    return wrapped


def _project_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """-c, --seed, --device and KEY=VALUE words: what decides the resolved config."""
    for decorate in (
        click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
        click.option("--device", type=click.Choice(DEVICES)),
        click.option("--seed", type=click.IntRange(min=0), help="Of all random draws."),
        click.option("-c", "--config", "config_file", type=PATH, help="YAML file of the project."),
    ):
        function = decorate(function)
    return function


def _finish(losses: list[str]) -> int:
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
) -> Callable[[Callable[..., list[str]]], click.Command]:
    """A command that works on a run directory.

    `upstream`: stages it reads, whose settings may not be contradicted. An option of the same name
    (`--latents DIR`) replaces the run's own stage and lifts that check. `run_as_word`: the first
    word may be the run directory, without --run.
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
            from latentdiff.runs import Run
            from latentdiff.workflows.project import check_upstream, resolve

            if run is None:
                run, settings = _run_of_words(settings)
            where = Run(run)
            project = resolve(where, config_file, settings, {"seed": seed, "device": device})
            check_upstream(project, [getattr(where, s) for s in upstream if not options.get(s)])
            return _finish(worker(where, project, **options))

        function: Callable[..., Any] = _project_options(_loudness(call))
        for option in (
            click.option("--dry-run", is_flag=True, help="Check and tell, but write nothing."),
            click.option("--overwrite", is_flag=True, help="Make the stage anew."),
            click.option("--run", type=PATH, help="The run directory.", **needed),
        ):
            function = option(function)
        function.__click_params__ += getattr(worker, "__click_params__", [])  # type: ignore[attr-defined]
        name = worker.__name__.replace("_", "-")
        command = click.command(name, cls=Command, example=example, help=worker.__doc__)(function)
        cli.add_command(command)
        return command

    return decorate


def _run_of_words(words: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """`runs/techno sampling.steps=8` -> the run directory, and the settings after it."""
    if not words or "=" in words[0]:
        raise click.UsageError("name the run directory: runs/techno, or --run runs/techno")
    return Path(words[0]), words[1:]


def plain_command(example: str, group: click.Group = cli, **options: Any) -> Callable[..., Any]:
    """A command that needs no project."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return group.command(cls=Command, example=example, **options)(_loudness(function))

    return decorate


@plain_command("latentdiff doctor")
@click.option("--run", type=PATH, help="The run directory whose disk to look at. [runs]")
def doctor(run: Path | None) -> int:
    """Tell what works on this machine, and what to do about the rest."""
    from latentdiff.runs import Run
    from latentdiff.workflows.doctor import doctor as work

    return EXIT_OK if work(Run(run) if run else None) else EXIT_BROKEN


@plain_command(
    "latentdiff quickstart --dry-run\nlatentdiff quickstart my/recordings --run runs/mine"
)
@click.argument("words", nargs=-1, metavar="[AUDIO_DIR] [KEY=VALUE]...")
@click.option(
    "--run", type=PATH, default=Path("runs/quickstart"), show_default=True, help="Run directory."
)
@click.option("--overwrite", is_flag=True, help="Start anew.")
@click.option("--dry-run", is_flag=True, help="Only print the commands.")
@click.option("--seed", type=click.IntRange(min=0), help="Of all random draws.")
@click.option("--device", type=click.Choice(DEVICES))
def quickstart(words: tuple[str, ...], run: Path, **options: Any) -> int:
    """The whole chain, small, in minutes on a CPU, ending in sound.

    Learns from the recordings in AUDIO_DIR, or from music that it makes itself.
    """
    from latentdiff.runs import Run
    from latentdiff.workflows.quickstart import quickstart as work

    settings = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in words if word not in settings]
    if len(folders) > 1:
        raise click.UsageError(f"one AUDIO_DIR at most, got {len(folders)}")
    folder = folders[0] if folders else None
    return _finish(work(Run(run), audio_dir=folder, settings=settings, **options))


rave_option = click.option(
    "--rave", type=PATH, help="Another RAVE: a run's folder, a `rave train` run, or a model.ts."
)
ckpt_option = click.option("--ckpt", help="last, best, or the path of a checkpoint.")


class _Devices(click.ParamType):
    """`auto` or a number."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> str | int:
        if value == "auto":
            return "auto"
        return click.IntRange(min=1).convert(value, param, ctx)


def launch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--devices, --num-nodes and --strategy, handed on as `devices`, `num_nodes`, `strategy`."""
    for decorate in (
        click.option(
            "--strategy", default="auto", show_default=True, help="auto, ddp, or Lightning's names."
        ),
        click.option("--num-nodes", type=click.IntRange(min=1), default=1, help="Machines. [1]"),
        click.option(
            "--devices", type=_Devices(), default=1, help="Of each machine, a process each. [1]"
        ),
    ):
        function = decorate(function)
    return function


@stage_command("latentdiff preprocess --run runs/techno --audio recordings")
@click.option("--audio", type=PATH, multiple=True, help="Folder or file; may be repeated.")
@click.option("--dataset", type=PATH, help="Write the dataset there instead.")
def preprocess(run: Run, project: Project, **options: Any) -> list[str]:
    """Audio files -> dataset: decoded, mixed down, resampled, split by file, all accounted for."""
    from latentdiff.workflows.preprocess import preprocess as work

    return work(run, project, **options)


@stage_command("latentdiff train-rave --run runs/techno rave.steps=20", upstream=("dataset",))
@click.option("--dataset", type=PATH, help="Another dataset (also one of `rave preprocess`).")
@click.option("--ckpt", type=PATH, help="Begin with the weights of a checkpoint of the same shape.")
def train_rave(run: Run, project: Project, **options: Any) -> list[str]:
    """Dataset -> RAVE codec. The same command again resumes."""
    from latentdiff.workflows.train_rave import train_rave as work

    return work(run, project, **options)


@stage_command("latentdiff encode --run runs/techno --check", upstream=("dataset", "rave"))
@rave_option
@ckpt_option
@click.option("--audio", type=PATH, multiple=True, help="Encode these instead of the dataset's.")
@click.option("--dataset", type=PATH, help="Encode the files of another dataset.")
@click.option("--check", is_flag=True, help="Decode some back and tell how near they are.")
@launch_options
def encode(run: Run, project: Project, **options: Any) -> list[str]:
    """Audio + codec -> latents: posterior means, mel spectrograms, statistics."""
    from latentdiff.workflows.encode import encode as work

    return work(run, project, **options)


@stage_command(
    "latentdiff train-diffusion --run runs/techno training.steps=300", upstream=("latents",)
)
@click.option("--latents", type=PATH, help="Another latent store, or a folder of .npy files.")
@launch_options
def train_diffusion(run: Run, project: Project, **options: Any) -> list[str]:
    """Latents -> diffusion model, each loss beside its baseline. The same command resumes."""
    from latentdiff.workflows.train_diffusion import train_diffusion as work

    return work(run, project, **options)


@stage_command("latentdiff sample --run runs/techno --n 2 --seconds 5 --seed 3 --name first")
@click.option("--diffusion", type=PATH, help="Another diffusion folder or .safetensors file.")
@click.option("--n", type=click.IntRange(min=1), default=4, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of each. [10]")
@click.option("--condition", type=PATH, multiple=True, help="Sound or label to follow; repeatable.")
@click.option("--name", help="Folder below samples/. [the time]")
def sample(run: Run, project: Project, **options: Any) -> list[str]:
    """Diffusion model -> new latents. The same seed gives the same latents."""
    from latentdiff.workflows.sample import sample as work

    return work(run, project, **options)


@stage_command("latentdiff decode --run runs/techno --name first", upstream=("rave",))
@click.option("--latents", type=PATH, help="Latents to decode. [the newest samples]")
@rave_option
@ckpt_option
@click.option("--name", help="Samples to decode, and the folder below audio/.")
@click.option("--format", "audio_format", type=click.Choice(["wav", "flac"]), default="wav")
@click.option("--force", is_flag=True, help="Decode even latents of another codec.")
def decode(run: Run, project: Project, **options: Any) -> list[str]:
    """Latents + codec -> wav or flac files, with their levels."""
    from latentdiff.workflows.decode import decode as work

    return work(run, project, **options)


@stage_command(
    "latentdiff evaluate runs/techno --n 16 --seconds 2", upstream=("latents",), run_as_word=True
)
@click.option("--n", type=click.IntRange(min=2), default=64, show_default=True, help="Samples.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of each. [as sample]")
@click.option("--diffusion", type=PATH, help="Another diffusion folder or .safetensors file.")
@click.option("--latents", type=PATH, help="The latents it was trained on. [the run's]")
@rave_option
@ckpt_option
@click.option(
    "--steps", type=WholeNumbers(), default="", help="Also score samples in 16,200 steps."
)
@click.option("--embedding", multiple=True, help="A plug-in such as clap; may be repeated.")
def evaluate(run: Run, project: Project, **options: Any) -> list[str]:
    """Tell what a model has learned: skill, scores of its samples, levels, copies, pictures.

    `evaluate RUN` or `evaluate --run RUN`. Measured on held-out files, and on samples drawn for
    it; each number stands between that of real sound and that of noise.
    """
    from latentdiff.workflows.evaluate import evaluate as work

    return work(run, project, **options)


@plain_command("latentdiff inspect runs/techno")
@click.argument("path", type=PATH)
def inspect(path: Path) -> int:
    """Tell what a run, a stage, a sound, an .npy or a .safetensors file holds."""
    from latentdiff.workflows.inspect import inspect as work

    return _finish(work(path))


@plain_command("latentdiff runs runs", name="runs")
@click.argument("folder", type=PATH, default=Path("runs"))
@click.option("--json", "for_programs", is_flag=True, help="As JSON.")
def list_runs(folder: Path, for_programs: bool) -> None:
    """List the runs below a folder: status, step, skill, size, and what each came from."""
    from latentdiff.workflows import runs_list

    if for_programs:
        click.echo(runs_list.as_json(runs_list.list_runs(folder)))
    else:
        runs_list.tell(folder)


@cli.group(cls=Group)
def config() -> None:
    """Write, show and check config files."""


@plain_command("latentdiff config init techno.yaml --preset laptop", config)
@click.argument("file", type=PATH, default=Path("latentdiff.yaml"))
@click.option("--preset", help="quickstart, laptop or gpu. [every setting, with its meaning]")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def init(file: Path, preset: str | None, overwrite: bool) -> None:
    """Write a config file to start from."""
    from latentdiff.workflows import presets

    log.info(presets.init(file, preset, overwrite))


@plain_command("latentdiff config show -c techno.yaml training.steps=300", config)
@click.option("--run", type=PATH, help="Show what a run directory remembers.")
@_project_options
def show(
    run: Path | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    seed: int | None,
    device: str | None,
) -> None:
    """Print the config as the commands would see it: defaults, file, overrides."""
    from latentdiff.config import to_yaml
    from latentdiff.runs import Run
    from latentdiff.workflows.project import resolve

    where = Run(run) if run else None
    click.echo(to_yaml(resolve(where, config_file, settings, {"seed": seed, "device": device})))


@plain_command("latentdiff config validate techno.yaml", config)
@click.argument("files", type=PATH, nargs=-1, required=True)
def validate(files: tuple[Path, ...]) -> None:
    """Check config files; every problem is told at once."""
    from latentdiff.workflows import presets

    presets.validate(list(files))
    for file in files:
        log.info("%s: valid", file)


@plain_command("latentdiff config schema --table", config)
@click.option("--table", is_flag=True, help="A Markdown table instead of a JSON schema.")
def schema(table: bool) -> None:
    """Print the JSON schema of the config file, or its reference as a table."""
    from latentdiff.workflows import presets

    click.echo(presets.table() if table else presets.schema())
