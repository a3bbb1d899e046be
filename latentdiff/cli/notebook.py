"""`latentdiff notebook`: 119 observations of trainings that could not work, explained and run."""

from __future__ import annotations

from pathlib import Path

import click

from latentdiff.cli.base import DEVICES, PATH, Group, cli, finish, log, plain_command


@cli.group(cls=Group)
def notebook() -> None:
    """See again what a summer of trainings saw that could not work, and why.

    The notebook that this project began with has 119 entries. Each is answered by a small
    training, a command, a formula or a page (configs/notebook/README.md).
    """


@plain_command("latentdiff notebook list", notebook, name="list")
def list_entries() -> None:
    """List the entries, and how each is answered."""
    from latentdiff.notebook import tell

    log.info("%s", tell.listing())


@plain_command("latentdiff notebook show N34", notebook)
@click.argument("entry")
def show(entry: str) -> None:
    """Tell one entry: what was seen, why, and what answers it today."""
    from latentdiff.notebook import tell

    log.info("%s", tell.story(entry))


@plain_command("latentdiff notebook run N34 --run runs/techno training.steps=20", notebook)
@click.argument("words", nargs=-1, metavar="[ENTRY]... [KEY=VALUE]...")
@click.option("--all", "every", is_flag=True, help="All entries that can be run.")
@click.option("--run", "directory", type=PATH, required=True, help="The run directory.")
@click.option("--latents", type=PATH, help="Another latent store, or a folder of .npy files.")
@click.option("--seed", type=click.IntRange(min=0), help="Of all random draws.")
@click.option("--device", type=click.Choice(DEVICES))
@click.option("--overwrite", is_flag=True, help="Run anew what was run before.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be run.")
def run(
    words: tuple[str, ...],
    every: bool,
    directory: Path,
    latents: Path | None,
    seed: int | None,
    device: str | None,
    overwrite: bool,
    dry_run: bool,
) -> int:
    """Run entries on the latents at hand: the user's number, the formula's, and today's.

    Each is a training of seconds in RUN/notebook; the same command again resumes. The table stays
    in RUN/notebook/table.txt.
    """
    from latentdiff.notebook.run import run as work
    from latentdiff.runs import Run

    losses = work(
        Run(directory),
        [word for word in words if "=" not in word],
        every=every,
        settings=[word for word in words if "=" in word],
        latents=latents,
        seed=seed,
        device=device,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return finish(losses)
