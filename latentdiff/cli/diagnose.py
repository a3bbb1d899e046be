"""`latentdiff diagnose`: one question a command, answered with numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import (
    PATH,
    Group,
    ckpt_option,
    cli,
    config_options,
    plain_command,
    rave_option,
    stage_command,
)
from latentdiff.errors import EXIT_BROKEN, EXIT_OK

if TYPE_CHECKING:
    from latentdiff.model.project import Project
    from latentdiff.runs import Run


@cli.group(cls=Group)
def diagnose() -> None:
    """Find out what is wrong: the sampler, the schedule, the latents, the condition, the training.

    Each command prints its verdict in words, with the numbers it rests on.
    """


def report_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of diagnoses that need no run: whose settings, and where the files go, if anywhere."""
    for decorate in (
        click.option("--overwrite", is_flag=True, help="Make the report anew."),
        click.option("--out", type=PATH, help="Folder for files. [diagnosis/... of the run]"),
        click.option("--run", type=PATH, help="A run directory whose settings to take."),
        config_options,
    ):
        function = decorate(function)
    return function


@plain_command("latentdiff diagnose sampler diffusion.schedule.name=flow", group=diagnose)
@click.option("--all", "everything", is_flag=True, help="Every schedule in full; takes minutes.")
@report_options
def sampler(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> int:
    """Is it the training or the sampling? Every sampler with a perfect model.

    On latents of which the best denoiser and the exact flow are known, for 1 to 1000 steps of the
    configured schedule: errors of mean, covariance and end points, orders of convergence, what a
    network may put out, and what starting from pure noise costs. Exit code 1 where a sampler misses
    its order or an output is converted wrongly.
    """
    from latentdiff.diagnose.report import project_of
    from latentdiff.diagnose.sampler.measure import sampler as work
    from latentdiff.runs import Run

    where = Run(run) if run else None
    project = project_of(where, config_file, settings)
    return EXIT_OK if work(project, run=where, **options) else EXIT_BROKEN


@plain_command(
    "latentdiff diagnose schedule --run runs/techno\n"
    "latentdiff diagnose schedule --gallery --out schedules",
    group=diagnose,
)
@click.option("--gallery", is_flag=True, help="Beside those of the literature and the notebook.")
@click.option(
    "--std", type=click.FloatRange(min=0, min_open=True), help="Of the latents. [the run's, or 1]"
)
@report_options
def schedule(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> None:
    """What a noise schedule does: where it ends, its gain, and losses that mean nothing.

    Terminal SNR and gain with their limits, and the loss of a model that learned nothing in L1 and
    MSE for eps, v, x0 and flow: no loss says anything without it. With --run also where on the
    log-SNR axis the encoder's own noise and the decoder's tolerance lie.
    """
    from latentdiff.diagnose.report import project_of
    from latentdiff.diagnose.schedule.measure import schedule as work
    from latentdiff.runs import Run

    where = Run(run) if run else None
    work(project_of(where, config_file, settings), run=where, **options)


@stage_command("latentdiff diagnose latents runs/techno", run_as_word=True, group=diagnose)
@click.option("--latents", type=PATH, help="Other latents, also a plain folder of .npy files.")
@click.option("--out", type=PATH, help="Where the files go. [diagnosis/latents of the run]")
def latents(run: Run, project: Project, **options: Any) -> list[str]:
    """How many of the codec's dimensions carry sound, and what noise the others are.

    `diagnose latents RUN`, or a folder of latents in its place. Along each principal direction:
    variance, bits, memory, normality; all of it for draws from the posterior too, and what these
    do to a loss.
    """
    from latentdiff.diagnose.latents.measure import diagnose_latents as work

    return work(run, project, **options)


@stage_command("latentdiff diagnose training runs/techno", run_as_word=True, group=diagnose)
@click.option("--diffusion", type=PATH, help="Another diffusion folder or .safetensors file.")
@click.option("--latents", type=PATH, help="The latents it was trained on. [the run's]")
def training(run: Run, project: Project, **options: Any) -> list[str]:
    """Why a training went as it did: causes, heaviest first, each with its evidence.

    `diagnose training RUN`. Reads the metrics, and measures the model on the latents and conditions
    it was trained on: losses by noise level, gap, gradients, pairs, magnitudes in the network, a
    handful of samples. Of a healthy run it says that nothing was found.
    """
    from latentdiff.diagnose.training.diagnose import diagnose_training as work

    return work(run, project, **options)


clip_seconds = click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Of each, where files are so long.",
)


@stage_command(
    "latentdiff diagnose noise-ladder runs/techno --n 2 --seconds 1",
    run_as_word=True,
    group=diagnose,
)
@click.option("--latents", type=PATH, help="Other latents. [the run's, or its model's]")
@rave_option
@ckpt_option
@click.option("--n", type=click.IntRange(min=1), default=8, show_default=True, help="Clips.")
@clip_seconds
def noise_ladder(run: Run, project: Project, **options: Any) -> list[str]:
    """How much noise on its latents the decoder bears, and what it makes of other latents.

    Held-out clips are decoded with more and more noise on their latents, in the directions that a
    diffusion model sees and in those it does not; beside them white noise, zeros, shuffled frames
    and mixtures. Level, spectral distance and sound of each. `train-diffusion` compares what its
    model leaves of the noise with what was found here.
    """
    from latentdiff.diagnose.noise_ladder.measure import diagnose_noise_ladder as work

    return work(run, project, **options)


@stage_command(
    "latentdiff diagnose conditioning runs/mel --n 2 --seconds 1", run_as_word=True, group=diagnose
)
@click.option("--diffusion", type=PATH, help="Another diffusion folder or .safetensors file.")
@click.option("--latents", type=PATH, help="The latents it was trained on. [the run's]")
@rave_option
@ckpt_option
@click.option("--n", type=click.IntRange(min=2), default=8, show_default=True, help="Clips.")
@clip_seconds
def conditioning(run: Run, project: Project, **options: Any) -> list[str]:
    """Does the model do what it is told? Ignored, weak or followed.

    Losses with right and wrong conditions; samples of the same noise with other conditions, and of
    the same condition with other noise: how unlike they are, as latents and as sound; and what
    guidance changes.
    """
    from latentdiff.diagnose.conditioning.measure import diagnose_conditioning as work

    return work(run, project, **options)


@plain_command("latentdiff diagnose overfit --image --steps 100 --run runs/techno", group=diagnose)
@click.option(
    "--image",
    is_flag=False,
    flag_value="drawn",
    metavar="[FILE]",
    help="A PNG file; alone: a drawing. [windows of latents, the drawing where there are none]",
)
@click.option("--latents", type=PATH, help="Where windows are taken from. [the run's]")
@click.option(
    "--windows", type=click.IntRange(min=1), default=1, show_default=True, help="How many of them."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1500,
    show_default=True,
    help="Of training, in place of training.steps.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Train so long instead."
)
@click.option("--as-in-notebook", is_flag=True, help="With the mistakes made there.")
@report_options
def overfit(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> int:
    """Are fewer steps better? One picture or window learned by heart, sampled in 1 to 1000 steps.

    A model of a single target has one answer at every noise level: however many steps the sampler
    takes, it must end there. Tells how far off samples of ddpm are for each number of steps. The
    network and noise are those of the settings; there is no condition.
    """
    from latentdiff.diagnose.overfit.measure import overfit as work
    from latentdiff.diagnose.report import project_of
    from latentdiff.runs import Run

    where = Run(run) if run else None
    work(project_of(where, config_file, settings), run=where, **options)
    return EXIT_OK
