"""`latentdiff notebook`: 119 observations of trainings that could not work, explained and rerun."""

from __future__ import annotations

from pathlib import Path

import click

from latentdiff.cli.base import (
    PATH,
    Group,
    cli,
    device_option,
    dry_run_option,
    finish,
    log,
    overwrite_option,
    plain_command,
    run_option,
    seed_option,
)


@cli.group(cls=Group)
def notebook() -> None:
    """Rerun a notebook of failed trainings, explained.

    This project began with a notebook of 119 entries. Each is answered by a small training, a
    command, a formula or a page (configs/notebook/README.md).
    """


@plain_command("latentdiff notebook list", notebook, name="list")
def list_entries() -> None:
    """List the entries and what answers each."""
    from latentdiff.notebook import tell

    log.info("%s", tell.listing())


@plain_command("latentdiff notebook show N34", notebook)
@click.argument("entry")
def show(entry: str) -> None:
    """Explain one entry: what was seen, why, and what answers it today."""
    from latentdiff.notebook import tell

    log.info("%s", tell.story(entry))


@plain_command("latentdiff notebook run N34 --run runs/techno training.steps=20", notebook)
@click.argument("words", nargs=-1, metavar="[ENTRY]... [KEY=VALUE]...")
@click.option("--all", "every", is_flag=True, help="Every entry that can be run.")
@run_option
@click.option("--latents", type=PATH, help="Another folder of latents (.npy). [the run's]")
@seed_option
@device_option
@overwrite_option
@dry_run_option
def run(
    words: tuple[str, ...],
    every: bool,
    run: Path,
    latents: Path | None,
    seed: int | None,
    device: str | None,
    overwrite: bool,
    dry_run: bool,
) -> int:
    """Rerun entries on your latents, and compare with the notebook.

    Prints the notebook's number, the formula's, and today's. Each entry trains for seconds in
    RUN/notebook; the same command again resumes. The table is kept in RUN/notebook/table.txt.
    """
    from latentdiff.notebook.run import run as work
    from latentdiff.runs import Run

    skipped = work(
        Run(run),
        [word for word in words if "=" not in word],
        every=every,
        settings=[word for word in words if "=" in word],
        latents=latents,
        seed=seed,
        device=device,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return finish(skipped, "case")
