"""`inspect PATH`: what a run, a stage, an audio file or a checkpoint holds."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.latents.store import STATISTICS
from latentdiff.runs import Run

log = logging.getLogger(__name__)

OURS = "latentdiff"
"""Metadata key under which a diffusion checkpoint describes itself."""


def inspect(path: Path) -> None:
    """Log what `path` holds. Raises UserError if latentdiff does not know what it is."""
    if not path.exists():
        raise UserError(f"nothing at {path}")
    if path.is_file():
        _file(path)
    else:
        _folder(path)


def _folder(path: Path) -> None:
    stages = [path] if (path / runs.RUN_FILE).exists() else _stages(Run(path))
    if not stages:
        raise UserError(
            f"{path} is neither a run directory nor a stage of one",
            why=f"there is no {runs.RUN_FILE} in it or in the stages of a run",
        )
    for stage in stages:
        _stage(stage)


def _stages(run: Run) -> list[Path]:
    single = [run.dataset, run.rave, run.latents, run.diffusion]
    many = [*sorted(run.samples.glob("*")), *sorted(run.audio.glob("*"))]
    return [path for path in single + many if (path / runs.RUN_FILE).exists()]


def _stage(directory: Path) -> None:
    info = runs.read_run(directory)
    assert info is not None  # the caller saw its run.json
    status = info.status + (f" ({info.error})" if info.error else "")
    log.info("%s", directory)
    log.info(
        "  %s: %s, %.0f s, started %s",
        *(info.stage, status, info.wall_seconds),
        info.started.isoformat(timespec="seconds"),
    )
    log.info("  command: %s", info.command)
    for name, source in info.inputs.items():
        log.info("  from %s: %s (%s)", name, source.path, source.fingerprint[:12])
    for key, value in info.result.items():
        log.info("  %s: %s", key, _short(value))
    if (directory / STATISTICS).exists():
        from latentdiff.latents.statistics import LatentStatistics

        statistics = LatentStatistics.load(directory / STATISTICS)
        log.info("  %s", statistics.describe(info.config["latents"]["keep"]))
    if any((directory / "checkpoints").glob("*.safetensors")):
        from latentdiff.training import checkpoint

        _network(checkpoint.find(directory))


def _network(weights: Path) -> None:
    from latentdiff.model.model import Model
    from latentdiff.networks.build import describe

    model = Model.load(weights)
    described = describe(
        model.denoiser.network,  # type: ignore[arg-type]
        frames=model.spec.window,
        frames_per_second=1 / model.spec.seconds(1),
    )
    log.info("  network: %s", described)
    for warning in model.spec.recipe.warnings:
        log.warning("%s", warning)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _file(path: Path) -> None:
    if path.suffix == ".safetensors":
        _safetensors(path)
    elif path.suffix == ".npy":
        _array(path)
    else:
        from latentdiff import audio

        found = audio.probe(path)
        log.info(
            "%s: %.2f s, %d Hz, %d channel(s), %s (read by %s)",
            path,
            found.seconds,
            found.sample_rate,
            found.channels,
            found.format,
            found.decoder,
        )


def _array(path: Path) -> None:
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a usable .npy file", why=str(error)) from error
    finite = bool(np.isfinite(array).all())
    log.info(
        "%s: %s %s, min %.4g, max %.4g, mean %.4g, std %.4g%s",
        path,
        array.dtype,
        list(array.shape),
        array.min(),
        array.max(),
        array.mean(),
        array.std(),
        "" if finite else ", holds NaN or Inf",
    )


def _safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            count = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a usable .safetensors file", why=str(error)) from error
    log.info("%s: %d tensors, %s numbers", path, len(names), f"{count:,}")
    for key, value in metadata.items():
        log.info("  %s: %s", key, _short(value))
    if OURS in metadata:
        _network(path)
