"""`latentdiff diagnose`: one question a command, answered with numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import PATH, Group, cli, stage_command

if TYPE_CHECKING:
    from latentdiff.runs import Run
    from latentdiff.workflows.project import Project


@cli.group(cls=Group)
def diagnose() -> None:
    """Find out what is wrong: the sampler, the schedule, the latents, the condition, the training.

    Each command prints its verdict in words, with the numbers it rests on.
    """


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
