"""The commands of the chain, and those that look at what it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import (
    PATH,
    WholeNumbers,
    add_options,
    ckpt_option,
    device_option,
    diffusion_option,
    dry_run_option,
    finish,
    format_option,
    overwrite_option,
    plain_command,
    rave_option,
    seed_option,
    stage_command,
    trained_latents_option,
    validation_option,
)
from latentdiff.cli.conditions import condition_options
from latentdiff.errors import EXIT_FAILURE, EXIT_OK, UserError

if TYPE_CHECKING:
    from latentdiff.audio import AudioFormat
    from latentdiff.model.project import Project
    from latentdiff.runs import Run


@plain_command("latentdiff doctor")
@click.option("--run", type=PATH, help="Run directory whose disk to check. [runs]")
def doctor(run: Path | None) -> int:
    """Check this machine, and explain how to fix what is broken.

    Exit code 1 if something is broken.
    """
    from latentdiff.commands.doctor import doctor as work
    from latentdiff.runs import Run

    return EXIT_OK if work(Run(run) if run else None) else EXIT_FAILURE


@plain_command(
    "latentdiff quickstart --dry-run\nlatentdiff quickstart --minutes 30 --dry-run\n"
    "latentdiff quickstart my/recordings --run runs/mine"
)
@click.argument("words", nargs=-1, metavar="[AUDIO_DIR] [KEY=VALUE]...")
@click.option(
    "--run", type=PATH, default=Path("runs/quickstart"), show_default=True, help="Run directory."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="About how long all of it may take, such as 10, 30 or 60. [fixed numbers of steps]",
)
@overwrite_option
@dry_run_option
@seed_option
@device_option
def quickstart(words: tuple[str, ...], run: Path, **options: Any) -> int:
    """Run all steps on a small scale, in minutes on a CPU.

    Trains on the recordings in AUDIO_DIR, or on music that it synthesises, and ends with audio you
    can play.
    """
    from latentdiff.commands.quickstart import quickstart as work
    from latentdiff.runs import Run

    settings = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in words if word not in settings]
    if len(folders) > 1:
        raise click.UsageError(f"one AUDIO_DIR at most, got {len(folders)}")
    folder = folders[0] if folders else None
    skipped = work(Run(run), audio_dir=folder, settings=settings, **options)
    return finish(skipped, "command", "skipped files")


class _Devices(click.ParamType):
    """`auto` or a number."""

    name = "auto|NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        if value == "auto":
            return "auto"
        return int(click.IntRange(min=1).convert(value, param, ctx))


launch_options = add_options(
    click.option(
        "--devices",
        type=_Devices(),
        default=1,
        help="Devices per machine, one process each; auto: all GPUs. [1]",
    ),
    click.option("--num-nodes", type=click.IntRange(min=1), default=1, help="Machines. [1]"),
    click.option(
        "--strategy",
        default="auto",
        show_default=True,
        help="How processes work together, as Lightning names it: auto, ddp, ...",
    ),
)
"""--devices, --num-nodes and --strategy, passed on as `devices`, `num_nodes`, `strategy`."""

seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Length of each sample. [sampling.seconds]",
)


@stage_command("latentdiff preprocess --run runs/techno --audio recordings")
@click.option("--audio", type=PATH, multiple=True, help="Folder or file; repeatable.")
@validation_option
@click.option("--dataset", type=PATH, help="Where to write the dataset. [dataset/ of the run]")
def preprocess(run: Run, project: Project, **options: Any) -> list[str]:
    """Audio files -> dataset.

    Decodes, mixes down and resamples, and holds out files (or the ends of few) for validation.
    Files that cannot be used are skipped and listed; the exit code is then 3.
    """
    from latentdiff.commands.preprocess import preprocess as work

    return work(run, project, **options)


@stage_command("latentdiff train-rave --run runs/techno rave.steps=20", upstream=("dataset",))
@click.option("--dataset", type=PATH, help="Another dataset, also one made by `rave preprocess`.")
@click.option("--ckpt", type=PATH, help="Start from the weights of a checkpoint or a RAVE run.")
@click.option(
    "--continue", "resume", is_flag=True, help="Go on with the training of --ckpt, step and all."
)
def train_rave(run: Run, project: Project, **options: Any) -> list[str]:
    """Dataset -> RAVE codec. The same command again resumes."""
    from latentdiff.commands.train_rave import train_rave as work

    if options["resume"] and options["ckpt"] is None:
        raise UserError(
            "--continue needs --ckpt: the training that is to go on",
            do_this="the run's own training continues without --continue.",
        )
    return work(run, project, **options)


@stage_command("latentdiff encode --run runs/techno --check", upstream=("dataset", "rave"))
@rave_option
@ckpt_option
@click.option(
    "--audio", type=PATH, multiple=True, help="Encode this folder or file instead; repeatable."
)
@validation_option
@click.option("--dataset", type=PATH, help="Encode the files of another dataset.")
@click.option(
    "--latents",
    "latents_output",
    type=PATH,
    help="Where to write the latents. [latents/ of the run]",
)
@click.option(
    "--check", is_flag=True, help="Decode some held-out files and compare them with the originals."
)
@launch_options
def encode(run: Run, project: Project, **options: Any) -> list[str]:
    """Audio + codec -> latents.

    Writes posterior means, mel spectrograms, statistics, and features of condition.kinds. Into
    finished latents that lack some of these features it adds them, and changes nothing else.
    """
    from latentdiff.commands.encode import encode as work

    return work(run, project, **options)


def _settings_of_teacher(run: Run, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the model that --distill names."""
    from latentdiff.model.distillation import settings_beneath

    return {} if options["distill"] is None else settings_beneath(run, options["distill"])


@stage_command(
    "latentdiff train-diffusion --run runs/techno training.steps=300",
    upstream=("latents",),
    beneath=_settings_of_teacher,
)
@click.option("--latents", type=PATH, help="Another folder of latents (.npy). [the run's]")
@click.option(
    "--validation",
    "validation_latents",
    type=PATH,
    help="Folder of latents to validate on; those of --latents are then all trained on.",
)
@click.option(
    "--distill",
    type=PATH,
    metavar="RUN",
    help="Train a copy of that run's model to need few network calls.",
)
@launch_options
def train_diffusion(run: Run, project: Project, **options: Any) -> list[str]:
    """Latents -> diffusion model. Reports skill against a closed-form baseline.

    The same command again resumes. With --distill: a diffusion model -> one that samples in a few
    network calls.
    """
    from latentdiff.commands.train_diffusion import train_diffusion as work

    return work(run, project, **options)


@stage_command("latentdiff sample --run runs/techno --n 2 --seconds 5 --seed 3 --name first")
@diffusion_option
@click.option(
    "--n", type=click.IntRange(min=1), default=4, show_default=True, help="Number of samples."
)
@seconds_option
@click.option(
    "--condition",
    type=PATH,
    multiple=True,
    help="Recording to follow frame by frame, or label; repeatable.",
)
@condition_options
@click.option("--init", type=PATH, metavar="SONG.WAV", help="Recording to vary.")
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How much --init is varied: 0 not at all, 1 a new sample that only follows it.",
)
@rave_option
@ckpt_option
@click.option("--name", help="Folder below samples/, and audio/ with --decode. [the time]")
@click.option("--decode", "to_sound", is_flag=True, help="Decode the samples to audio, too.")
@format_option
def sample(
    run: Run, project: Project, to_sound: bool, audio_format: AudioFormat, **options: Any
) -> list[str]:
    """Diffusion model -> new latents. The same seed gives the same latents.

    What is not asked for, such as the style, is taken from a training file that the seed picks, or
    from the recording to vary.
    """
    from latentdiff.commands.decode import decode as make_sound
    from latentdiff.commands.sample import new_name
    from latentdiff.commands.sample import sample as work

    options["name"] = options["name"] or new_name()
    skipped = work(run, project, **options)
    if to_sound and not options["dry_run"]:
        shared = {key: options[key] for key in ("name", "rave", "ckpt", "overwrite")}
        make_sound(run, project, audio_format=audio_format, **shared)
    return skipped


@stage_command("latentdiff decode --run runs/techno --name first", upstream=("rave",))
@click.option("--latents", type=PATH, help="Latents to decode. [the newest samples]")
@rave_option
@ckpt_option
@click.option("--name", help="Samples to decode, and folder below audio/ to write.")
@click.option("--output", type=PATH, help="Where to write instead. [audio/NAME of the run]")
@format_option
@click.option(
    "--limit/--no-limit",
    default=True,
    show_default=True,
    help="Turn peaks beyond full scale down, or cut them off.",
)
@click.option("--force", is_flag=True, help="Decode latents even if another codec made them.")
def decode(run: Run, project: Project, **options: Any) -> list[str]:
    """Latents + codec -> audio files, with their levels."""
    from latentdiff.commands.decode import decode as work

    return work(run, project, **options)


@stage_command(
    "latentdiff evaluate runs/techno --n 16 --seconds 2",
    upstream=("latents",),
    run_as_word=True,
    skips="measurement",
)
@click.option(
    "--n", type=click.IntRange(min=2), default=32, show_default=True, help="Number of samples."
)
@seconds_option
@diffusion_option
@trained_latents_option
@rave_option
@ckpt_option
@click.option(
    "--steps",
    type=WholeNumbers(),
    default="",
    metavar="N,N,...",
    help="Also score samples drawn with these numbers of steps, such as 16 and 200: 16,200.",
)
@click.option("--embedding", multiple=True, help="Plug-in to score with, such as clap; repeatable.")
def evaluate(run: Run, project: Project, **options: Any) -> list[str]:
    """Measure a model's skill, sample quality and copying.

    `evaluate RUN` or `evaluate --run RUN`. Uses held-out files and freshly drawn samples, and
    reports every number beside that of real audio and that of noise. Writes a table, pictures and
    some audio into evaluation/.
    """
    from latentdiff.commands.evaluate import evaluate as work

    return work(run, project, **options)


@plain_command("latentdiff inspect runs/techno")
@click.argument("path", type=PATH)
def inspect(path: Path) -> None:
    """Show what a run, a stage or a file holds.

    Also a run of `rave train`, a RAVE's .ckpt or .ts, a folder of .npy latents, and audio,
    .npy and .safetensors files.
    """
    from latentdiff.commands.inspect import inspect as work

    work(path)


@plain_command("latentdiff runs runs", name="runs")
@click.argument("folder", type=PATH, default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs below a folder.

    Status, step, skill, age, size and inputs of each stage, and why it failed if it did.
    """
    from latentdiff.commands import runs_table

    if as_json:
        click.echo(runs_table.as_json(runs_table.list_runs(folder)))
    else:
        runs_table.show(folder)
