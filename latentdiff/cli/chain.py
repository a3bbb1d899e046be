"""The commands of the chain, and those that look at what it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import (
    DEVICES,
    PATH,
    WholeNumbers,
    ckpt_option,
    finish,
    plain_command,
    rave_option,
    stage_command,
)
from latentdiff.errors import EXIT_BROKEN, EXIT_OK

if TYPE_CHECKING:
    from latentdiff.model.project import Project
    from latentdiff.runs import Run


@plain_command("latentdiff doctor")
@click.option("--run", type=PATH, help="The run directory whose disk to look at. [runs]")
def doctor(run: Path | None) -> int:
    """Tell what works on this machine, and what to do about the rest."""
    from latentdiff.commands.doctor import doctor as work
    from latentdiff.runs import Run

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
    from latentdiff.commands.quickstart import quickstart as work
    from latentdiff.runs import Run

    settings = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in words if word not in settings]
    if len(folders) > 1:
        raise click.UsageError(f"one AUDIO_DIR at most, got {len(folders)}")
    folder = folders[0] if folders else None
    return finish(work(Run(run), audio_dir=folder, settings=settings, **options))


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
    from latentdiff.commands.preprocess import preprocess as work

    return work(run, project, **options)


@stage_command("latentdiff train-rave --run runs/techno rave.steps=20", upstream=("dataset",))
@click.option("--dataset", type=PATH, help="Another dataset (also one of `rave preprocess`).")
@click.option("--ckpt", type=PATH, help="Start from the weights of a checkpoint or RAVE run.")
def train_rave(run: Run, project: Project, **options: Any) -> list[str]:
    """Dataset -> RAVE codec. The same command again resumes."""
    from latentdiff.commands.train_rave import train_rave as work

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
    from latentdiff.commands.encode import encode as work

    return work(run, project, **options)


@stage_command(
    "latentdiff train-diffusion --run runs/techno training.steps=300", upstream=("latents",)
)
@click.option("--latents", type=PATH, help="Another latent store, or a folder of .npy files.")
@launch_options
def train_diffusion(run: Run, project: Project, **options: Any) -> list[str]:
    """Latents -> diffusion model, each loss beside its baseline. The same command resumes."""
    from latentdiff.commands.train_diffusion import train_diffusion as work

    return work(run, project, **options)


@stage_command("latentdiff sample --run runs/techno --n 2 --seconds 5 --seed 3 --name first")
@click.option("--diffusion", type=PATH, help="Another diffusion folder or .safetensors file.")
@click.option("--n", type=click.IntRange(min=1), default=4, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Of each. [10]")
@click.option("--condition", type=PATH, multiple=True, help="Sound or label to follow; repeatable.")
@click.option("--name", help="Folder below samples/. [the time]")
def sample(run: Run, project: Project, **options: Any) -> list[str]:
    """Diffusion model -> new latents. The same seed gives the same latents."""
    from latentdiff.commands.sample import sample as work

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
    from latentdiff.commands.decode import decode as work

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
    from latentdiff.commands.evaluate import evaluate as work

    return work(run, project, **options)


@plain_command("latentdiff inspect runs/techno")
@click.argument("path", type=PATH)
def inspect(path: Path) -> int:
    """Tell what a run, a stage, a sound, an .npy or a .safetensors file holds."""
    from latentdiff.commands.inspect import inspect as work

    return finish(work(path))


@plain_command("latentdiff runs runs", name="runs")
@click.argument("folder", type=PATH, default=Path("runs"))
@click.option("--json", "for_programs", is_flag=True, help="As JSON.")
def list_runs(folder: Path, for_programs: bool) -> None:
    """List the runs below a folder: status, step, skill, size, and what each came from."""
    from latentdiff.commands import runs_table as runs_list

    if for_programs:
        click.echo(runs_list.as_json(runs_list.list_runs(folder)))
    else:
        runs_list.tell(folder)
