"""`latentdiff config`: write, show and check config files."""

from __future__ import annotations

from pathlib import Path

import click

from latentdiff.cli.base import PATH, Group, cli, log, plain_command, project_options


@cli.group(cls=Group)
def config() -> None:
    """Write, show and check config files."""


@plain_command("latentdiff config init techno.yaml --preset laptop", config)
@click.argument("file", type=PATH, default=Path("latentdiff.yaml"))
@click.option("--preset", help="quickstart, laptop or gpu. [every setting, explained]")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def init(file: Path, preset: str | None, overwrite: bool) -> None:
    """Write a config file to start from."""
    from latentdiff.commands import presets

    log.info(presets.init(file, preset, overwrite))


@plain_command("latentdiff config show -c techno.yaml training.steps=300", config)
@click.option("--run", type=PATH, help="Run directory whose config to start from.")
@project_options
def show(
    run: Path | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    seed: int | None,
    device: str | None,
) -> None:
    """Print the config that a command would use.

    Defaults, then the run's own config, the file, and overrides, the last on top.
    """
    from latentdiff.config import to_yaml
    from latentdiff.model.project import resolve
    from latentdiff.runs import Run

    where = Run(run) if run else None
    click.echo(to_yaml(resolve(where, config_file, settings, {"seed": seed, "device": device})))


@plain_command("latentdiff config validate techno.yaml", config)
@click.argument("files", type=PATH, nargs=-1, required=True)
def validate(files: tuple[Path, ...]) -> None:
    """Check config files, and list every problem at once."""
    from latentdiff.commands import presets

    presets.validate(list(files))
    for file in files:
        log.info("%s: valid", file)


@plain_command("latentdiff config schema --table", config)
@click.option("--table", is_flag=True, help="Print a Markdown table instead.")
def schema(table: bool) -> None:
    """Print all settings, as JSON schema or as a table."""
    from latentdiff.commands import presets

    click.echo(presets.table() if table else presets.schema())
