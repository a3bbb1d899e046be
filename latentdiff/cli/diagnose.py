"""`latentdiff diagnose`: one question a command, answered with numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import PATH, Group, cli, config_options, plain_command, stage_command
from latentdiff.errors import EXIT_BROKEN, EXIT_OK

if TYPE_CHECKING:
    from latentdiff.runs import Run
    from latentdiff.workflows.project import Project


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
    from latentdiff.runs import Run
    from latentdiff.workflows.diagnose.report import project_of
    from latentdiff.workflows.diagnose.sampler import sampler as work

    where = Run(run) if run else None
    project = project_of(where, config_file, settings)
    return EXIT_OK if work(project, run=where, **options) else EXIT_BROKEN


@stage_command("latentdiff diagnose latents runs/techno", run_as_word=True, group=diagnose)
@click.option("--latents", type=PATH, help="Other latents, also a plain folder of .npy files.")
@click.option("--out", type=PATH, help="Where the files go. [diagnosis/latents of the run]")
def latents(run: Run, project: Project, **options: Any) -> list[str]:
    """How many of the codec's dimensions carry sound, and what noise the others are.

    `diagnose latents RUN`, or a folder of latents in its place. Along each principal direction:
    variance, bits, memory, normality; all of it for draws from the posterior too, and what these
    do to a loss.
    """
    from latentdiff.workflows.diagnose.latents import diagnose_latents as work

    return work(run, project, **options)
