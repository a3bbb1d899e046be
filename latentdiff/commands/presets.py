"""The shipped config files, and the reference of all settings."""

from __future__ import annotations

import importlib.resources
import json
import textwrap
from pathlib import Path

from latentdiff import config, runs
from latentdiff.errors import UserError
from latentdiff.model.project import Project, resolve


def preset_path(name: str) -> Path:
    """The YAML file of a shipped preset. Raises UserError if there is no preset of that name."""
    folder = Path(str(importlib.resources.files("latentdiff"))) / "configs"
    presets = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in presets:
        raise UserError(
            f"no preset '{name}'{config.did_you_mean(name, presets)}",
            do_this=f"choose one of: {', '.join(presets)}.",
        )
    return presets[name]


def init(path: Path, preset: str | None, overwrite: bool) -> str:
    """Write a preset or all settings to `path`; returns a message. UserError if it exists."""
    if path.exists() and not overwrite:
        raise UserError(
            f"{path} already exists", do_this="choose another file, or replace it: --overwrite."
        )
    text = preset_path(preset).read_text(encoding="utf-8") if preset else annotated()
    runs.make_directory(path.parent)
    runs.write_text(path, text)
    return f"wrote {path}; use it with `-c {path}`, check it with `latentdiff config validate`."


def annotated() -> str:
    """Every setting at its default as YAML, each below a comment that explains it."""
    lines = ["# All settings of latentdiff with their defaults; delete what you do not change."]
    headed = set()
    for key, kind, default, meaning in config.reference(Project):
        *parents, leaf = key.split(".")
        for depth in range(1, len(parents) + 1):
            if tuple(parents[:depth]) not in headed:
                headed.add(tuple(parents[:depth]))
                lines += ["", "  " * (depth - 1) + f"{parents[depth - 1]}:"]
        comment = "  " * len(parents) + "# "
        lines += textwrap.wrap(
            f"{meaning} ({kind})", 96, initial_indent=comment, subsequent_indent=comment
        )
        lines.append("  " * len(parents) + f"{leaf}: {default}")
    return "\n".join(lines) + "\n"


def validate(paths: list[Path]) -> None:
    """Raise ConfigError, listing every problem, if a file is not a valid config."""
    for path in paths:
        resolve(None, path)


def schema() -> str:
    """JSON schema of the YAML, for completion in editors."""
    return json.dumps(Project.model_json_schema(), indent=2)


def table() -> str:
    """The reference of all settings as a Markdown table."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in config.reference(Project):
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(rows)
