"""`latentdiff diagnose`: one command for each registered question, and the options of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentdiff.cli.base import (
    PATH,
    Group,
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
from latentdiff.diagnose import QUESTIONS, Question
from latentdiff.errors import EXIT_FAILURE, EXIT_OK

if TYPE_CHECKING:
    from latentdiff.model.project import Project
    from latentdiff.runs import Run

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@cli.group(cls=Group)
def diagnose() -> None:
    """Find out what is wrong, one question per command.

    Is it the sampler, the schedule, the latents, the conditioning or the training? Each command
    prints a verdict and the numbers behind it.
    """


positive = click.FloatRange(min=0, min_open=True)
whole = click.IntRange(min=1)
clip_seconds_option = click.option(
    "--seconds",
    type=positive,
    default=3.0,
    show_default=True,
    help="Length of each clip; less if the files are short.",
)


def clips_option(least: int) -> Decorator:
    """--n, with a lower limit."""
    number = click.IntRange(min=least)
    return click.option("--n", type=number, default=8, show_default=True, help="Number of clips.")


REPORT_OPTIONS: Sequence[Decorator] = (
    config_options,
    click.option("--run", type=PATH, help="Run directory whose settings to use."),
    click.option("--out", type=PATH, help="Folder for the report. [diagnosis/... of the run]"),
    overwrite_option,
)
"""Options of diagnostics that need no run."""

OPTIONS: Mapping[str, Sequence[Decorator]] = {
    "sampler": (
        click.option(
            "--all", "everything", is_flag=True, help="Test every schedule; takes minutes."
        ),
    ),
    "schedule": (
        click.option(
            "--gallery", is_flag=True, help="Compare with schedules of papers and of the notebook."
        ),
        click.option(
            "--std", type=positive, help="Standard deviation of the latents. [the run's, or 1]"
        ),
    ),
    "latents": (
        click.option(
            "--latents", type=PATH, help="Other latents: a store, or a folder of .npy files."
        ),
        click.option(
            "--out", type=PATH, help="Folder for the report. [diagnosis/latents of the run]"
        ),
    ),
    "training": (diffusion_option, trained_latents_option),
    "noise-ladder": (
        click.option("--latents", type=PATH, help="Other latents. [the run's, or its model's]"),
        rave_option,
        ckpt_option,
        clips_option(1),
        clip_seconds_option,
    ),
    "conditioning": (
        diffusion_option,
        trained_latents_option,
        rave_option,
        ckpt_option,
        clips_option(2),
        clip_seconds_option,
    ),
    "overfit": (
        click.option(
            "--image",
            is_flag=False,
            flag_value="drawn",
            metavar="[FILE]",
            help="Use this PNG file, or without FILE a drawing. [latents, else the drawing]",
        ),
        click.option("--latents", type=PATH, help="Latents to take windows from. [the run's]"),
        click.option(
            "--windows", type=whole, default=1, show_default=True, help="Number of windows."
        ),
        click.option(
            "--steps",
            type=whole,
            default=1500,
            show_default=True,
            help="Training steps, instead of training.steps.",
        ),
        click.option("--minutes", type=positive, help="Train for this long instead."),
        click.option("--as-in-notebook", is_flag=True, help="With the notebook's mistakes."),
    ),
}
"""The options of each question, by its name."""

RUN_REPLACED_BY = {"latents": "latents"}
"""Question -> the option that makes its run directory optional."""


def _add(question: Question) -> None:
    """Add the command of a question to the group."""
    command = f"latentdiff diagnose {question.name} "
    example = "\n".join(command + line for line in question.example.splitlines())
    own = OPTIONS.get(question.name, ())
    if question.needs_run:
        replaced_by = RUN_REPLACED_BY.get(question.name)
        decorate = stage_command(
            example,
            run_as_word=True,
            run_replaced_by=replaced_by,
            group=diagnose,
            skips="measurement",
        )
        decorate(_decorated(_about_a_run(question), question, own))
    else:
        decorate = plain_command(example, group=diagnose, name=question.name)
        decorate(_decorated(_about_settings(question), question, (*own, *REPORT_OPTIONS)))


def _about_a_run(question: Question) -> Callable[..., list[str]]:
    def ask(run: Run | None, project: Project, **options: Any) -> list[str]:
        skipped = question.load()(run, project, **options)
        assert isinstance(skipped, list)
        return skipped

    return ask


def _about_settings(question: Question) -> Callable[..., int]:
    def ask(
        config_file: Path | None, settings: tuple[str, ...], run: Path | None, **options: Any
    ) -> int:
        from latentdiff.diagnose.report import project_of
        from latentdiff.runs import Run

        where = Run(run) if run else None
        project = project_of(where, config_file, settings)
        works = question.load()(project, run=where, **options)
        return EXIT_FAILURE if works is False else EXIT_OK

    return ask


def _decorated(
    ask: Callable[..., Any], question: Question, options: Sequence[Decorator]
) -> Callable[..., Any]:
    ask.__name__ = question.name
    ask.__doc__ = question.help
    for option in reversed(options):
        ask = option(ask)
    return ask


for _question in QUESTIONS:
    _add(_question)
