"""`inspect PATH`: what a run, a stage, a RAVE, a folder of latents or a file holds."""

from __future__ import annotations

import logging
from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.store import STATISTICS
from latentdiff.model import inspection
from latentdiff.rave import describe
from latentdiff.runs import Run

log = logging.getLogger(__name__)

_FILES = {
    ".safetensors": inspection.describe_weights,
    ".npy": inspection.describe_array,
    ".ckpt": describe.describe_checkpoint,
    ".ts": describe.describe_export,
}
"""Ending of a file -> lines about it; others are audio."""


def inspect(path: Path) -> None:
    """Log what `path` holds. Raises UserError if latentdiff does not know what it is."""
    if not path.exists():
        raise UserError(f"nothing at {path}")
    if path.is_dir():
        _folder(path)
    elif path.suffix in _FILES:
        _log(_FILES[path.suffix](path))
    else:
        _audio(path)


def _folder(path: Path) -> None:
    stages = [path] if (path / runs.RUN_FILE).exists() else _stages(Run(path))
    if stages:
        for stage in stages:
            _stage(stage)
    elif describe.holds_rave(path):
        _log(describe.describe_runs(path))
    elif any(path.rglob("*.npy")):
        _log(inspection.describe_latents(path))
    else:
        raise UserError(
            f"{path} is no run directory, no stage of one, no RAVE and no folder of latents",
            why=f"it holds no {runs.RUN_FILE}, no config.gin and no .npy file",
        )


def _stages(run: Run) -> list[Path]:
    single = [run.dataset, run.rave, run.latents, run.diffusion]
    many = [*sorted(run.samples.glob("*")), *sorted(run.audio.glob("*"))]
    return [path for path in single + many if (path / runs.RUN_FILE).exists()]


def _stage(directory: Path) -> None:
    info = runs.read_run(directory)
    assert info is not None  # the caller saw its run.json
    status = info.status + (f" ({info.error})" if info.error else "")
    started = info.started.isoformat(timespec="seconds")
    log.info("%s", directory)
    log.info("  %s: %s, %.0f s, started %s", info.stage, status, info.wall_seconds, started)
    log.info("  command: %s", info.command)
    for name, source in info.inputs.items():
        log.info("  from %s: %s (%s)", name, source.path, source.fingerprint[:12])
    for key, value in info.result.items():
        log.info("  %s: %s", key, inspection.short(value))
    if (directory / STATISTICS).exists():
        from latentdiff.latents.statistics import LatentStatistics

        statistics = LatentStatistics.load(directory / STATISTICS)
        log.info("  %s", statistics.describe(info.config["latents"]["keep"]))
    if any((directory / "checkpoints").glob("*.safetensors")):
        from latentdiff.training import checkpoint

        _log(inspection.describe_network(checkpoint.find(directory)))


def _audio(path: Path) -> None:
    from latentdiff import audio

    found = audio.probe(path)
    shape = found.seconds, found.sample_rate, found.channels
    log.info(
        "%s: %.2f s, %d Hz, %d channel(s), %s (read by %s)",
        *(path, *shape, found.format, found.decoder),
    )


def _log(lines: list[str]) -> None:
    for line in lines:
        log.info("%s", line)
