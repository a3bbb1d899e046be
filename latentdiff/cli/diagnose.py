"""`latentdiff diagnose`: one question a command, answered with numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import (
    PATH,
    Group,
    add_options,
    ckpt_option,
    cli,
    config_options,
    diffusion_option,
    overwrite_option,
    plain_command,
    rave_option,
    stage_command,
    trained_latents_option,
)
from latentdiff.errors import EXIT_FAILURE, EXIT_OK

if TYPE_CHECKING:
    from latentdiff.model.project import Project
    from latentdiff.runs import Run


@cli.group(cls=Group)
def diagnose() -> None:
    """Find out what is wrong, one question per command.

    Is it the sampler, the schedule, the latents, the conditioning or the training? Each command
    prints a verdict and the numbers behind it.
    """


report_options = add_options(
    config_options,
    click.option("--run", type=PATH, help="Run directory whose settings to use."),
    click.option("--out", type=PATH, help="Folder for the report. [diagnosis/... of the run]"),
    overwrite_option,
)
"""Of diagnoses that need no run: whose settings to use, and where to write, if anywhere."""

clip_seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Length of each clip; shorter files are used whole.",
)


@plain_command("latentdiff diagnose sampler diffusion.schedule.name=flow", group=diagnose)
@click.option("--all", "everything", is_flag=True, help="Test every schedule; takes minutes.")
@report_options
def sampler(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> int:
    """Do the samplers work? Tests each with a perfect model.

    The test latents are Gaussian mixtures with known best denoiser and exact flow. For 1 to 1000
    steps of the configured schedule: errors of mean, covariance and end points, orders of
    convergence, the range of network outputs, and what starting from pure noise costs. Exit code 1
    if a sampler misses its order or a network output is converted wrongly.
    """
    from latentdiff.diagnose.report import project_of
    from latentdiff.diagnose.sampler.measure import sampler as work
    from latentdiff.runs import Run

    where = Run(run) if run else None
    project = project_of(where, config_file, settings)
    return EXIT_OK if work(project, run=where, **options) else EXIT_FAILURE


@plain_command(
    "latentdiff diagnose schedule --run runs/techno\n"
    "latentdiff diagnose schedule --gallery --out schedules",
    group=diagnose,
)
@click.option(
    "--gallery", is_flag=True, help="Compare with schedules of the literature and the notebook."
)
@click.option(
    "--std",
    type=click.FloatRange(min=0, min_open=True),
    help="Standard deviation of the latents. [the run's, or 1]",
)
@report_options
def schedule(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> None:
    """Which noise levels does the schedule cover?

    Prints terminal SNR and gain with their limits, and the losses of a model that has learned
    nothing, L1 and MSE, for eps, v, x0 and flow: a loss only means something beside these. With
    --run also where on the log-SNR axis the encoder's noise and the decoder's noise tolerance are.
    """
    from latentdiff.diagnose.report import project_of
    from latentdiff.diagnose.schedule.measure import schedule as work
    from latentdiff.runs import Run

    where = Run(run) if run else None
    work(project_of(where, config_file, settings), run=where, **options)


@stage_command(
    "latentdiff diagnose latents runs/techno\n"
    "latentdiff diagnose latents --latents runs/techno/latents/mean --out report",
    run_as_word=True,
    instead_of_run="latents",
    group=diagnose,
)
@click.option("--latents", type=PATH, help="Other latents: a store, or a folder of .npy files.")
@click.option("--out", type=PATH, help="Folder for the report. [diagnosis/latents of the run]")
def latents(run: Run, project: Project, **options: Any) -> list[str]:
    """How many of the codec's dimensions carry signal?

    `diagnose latents RUN`, or `diagnose latents DIR` for a folder of latents without a run. For
    each principal direction: variance, bits, autocorrelation and normality, of the posterior means
    and of draws from the posterior, and how the noise of these draws changes the loss.
    """
    from latentdiff.diagnose.latents.measure import diagnose_latents as work

    return work(run, project, **options)


@stage_command(
    "latentdiff diagnose training runs/techno",
    run_as_word=True,
    group=diagnose,
    skips="measurement",
)
@diffusion_option
@trained_latents_option
def training(run: Run, project: Project, **options: Any) -> list[str]:
    """What went wrong in training? Likely causes, with evidence.

    `diagnose training RUN`. Reads the metrics, and measures the model on the latents and conditions
    it was trained on: losses by noise level, overfitting, gradients, pairing of conditions,
    activations, and a few samples. For a healthy run it reports that it found nothing.
    """
    from latentdiff.diagnose.training.diagnose import diagnose_training as work

    return work(run, project, **options)


@stage_command(
    "latentdiff diagnose noise-ladder runs/techno --n 2 --seconds 1",
    run_as_word=True,
    group=diagnose,
    skips="measurement",
)
@click.option("--latents", type=PATH, help="Other latents. [the run's, or its model's]")
@rave_option
@ckpt_option
@click.option(
    "--n", type=click.IntRange(min=1), default=8, show_default=True, help="Number of clips."
)
@clip_seconds_option
def noise_ladder(run: Run, project: Project, **options: Any) -> list[str]:
    """How much noise on the latents does the decoder tolerate?

    Decodes held-out clips with more and more noise on their latents, in the directions that the
    diffusion model sees and in the others, beside white noise, zeros, shuffled frames and mixtures.
    Reports level and spectral distance, and writes audio. `train-diffusion` compares the noise that
    its model leaves with the tolerance found here.
    """
    from latentdiff.diagnose.noise_ladder.measure import diagnose_noise_ladder as work

    return work(run, project, **options)


@stage_command(
    "latentdiff diagnose conditioning runs/mel --n 2 --seconds 1",
    run_as_word=True,
    group=diagnose,
    skips="measurement",
)
@diffusion_option
@trained_latents_option
@rave_option
@ckpt_option
@click.option(
    "--n", type=click.IntRange(min=2), default=8, show_default=True, help="Number of clips."
)
@clip_seconds_option
def conditioning(run: Run, project: Project, **options: Any) -> list[str]:
    """Does the model follow its condition?

    Compares losses with right and wrong conditions; samples from the same noise under different
    conditions, and under the same condition from different noise, as latents and as audio; and what
    guidance changes. The verdict is ignored, weak or followed.
    """
    from latentdiff.diagnose.conditioning.measure import diagnose_conditioning as work

    return work(run, project, **options)


@plain_command("latentdiff diagnose overfit --image --steps 100 --run runs/techno", group=diagnose)
@click.option(
    "--image",
    is_flag=False,
    flag_value="drawn",
    metavar="[FILE]",
    help="Use this PNG file, or without FILE a drawing. [latents; the drawing if there are none]",
)
@click.option("--latents", type=PATH, help="Latents to take windows from. [the run's]")
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of windows.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1500,
    show_default=True,
    help="Training steps, instead of training.steps.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Train for this long instead."
)
@click.option(
    "--as-in-notebook", is_flag=True, help="With the mistakes made in the notebook's version."
)
@report_options
def overfit(
    config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
) -> None:
    """Are fewer sampling steps better? Overfits one target.

    A model of one picture or one window of latents has a single right answer at every noise level,
    so its samples must end there in any number of steps. Reports the error of ddpm for 1 to 1000
    steps. Network and noise come from the settings; there is no condition.
    """
    from latentdiff.diagnose.overfit.measure import overfit as work
    from latentdiff.diagnose.report import project_of
    from latentdiff.runs import Run

    where = Run(run) if run else None
    work(project_of(where, config_file, settings), run=where, **options)
