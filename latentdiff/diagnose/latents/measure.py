"""`diagnose latents`: how many of a codec's dimensions carry sound, and what the others do.

Shapes: D latent dimensions and directions, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentdiff.diagnose.latents import picture as latents_pictures
from latentdiff.diagnose.latents.report import text
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diffusion import noise
from latentdiff.diffusion.loss import Objective
from latentdiff.errors import UserError
from latentdiff.evaluation import draws, profile
from latentdiff.evaluation import value_range as extent
from latentdiff.evaluation.profile import Profile
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path
from latentdiff.runs import Input, Run
from latentdiff.tracking import progress

NAME = "latents"
PIECE = 1 << 14
"""Frames of a file that are looked at together."""
LEVELS = 64
"""Of the schedule, over which a loss is averaged."""


@dataclass(frozen=True)
class Subject:
    """Latents, and what is known of them before they are read again."""

    store: LatentStore
    statistics: LatentStatistics
    whitening: Whitening | None
    """None where no direction can be kept; then `trouble` says why."""
    trouble: str = ""

    def pieces(self, what: str) -> Iterator[np.ndarray]:
        """All training latents [D, T], a piece of a file at a time."""
        for entry in progress(self.store.of("train"), unit="file", what=what):
            array = self.store.mean(entry)
            for start in range(0, entry.frames, PIECE):
                yield np.asarray(array[:, start : start + PIECE])


def diagnose_latents(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Tell of the training files of `latents`, of the run's own, or of the store that `run` is.

    Files go into the run, or into `out`. Raises UserError where there are no latents.
    """
    path, directory = _places(run, latents)
    store = LatentStore.open(path)
    settings = {
        "latents": {"keep": project.latents.keep, "scaling": project.latents.scaling},
        "diffusion": project.diffusion.model_dump(mode="json"),
    }
    run_question(
        NAME,
        dict,
        lambda: _report(_subject(store, project), project),
        out or directory,
        settings=settings,
        inputs={"latents": Input(str(path.resolve()), store.fingerprint())},
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return []


def _places(run: Run, latents: Path | None) -> tuple[Path, Path | None]:
    """Where the latents are, and where the files go; a folder of latents gets none unasked."""
    of_run = (run.config, run.latents, run.diffusion)
    if latents is None and not any(path.exists() for path in of_run):
        return run.root, None
    return latents_path(run, latents, run.diffusion), run.diagnosis / NAME


def _subject(store: LatentStore, project: Project) -> Subject:
    statistics = store.statistics()
    try:
        chosen = project.latents
        whitening = Whitening.from_statistics(statistics, chosen.keep, chosen.scaling)
    except UserError as error:
        # Not this command's end: it is what it was asked about.
        return Subject(store, statistics, None, error.what)
    return Subject(store, statistics, whitening)


def _report(subject: Subject, project: Project) -> Report[dict[str, Any]]:
    found = profile.measure(subject.statistics, lambda: subject.pieces("looking at latents"))
    results = _results(subject, found, project)
    pictures = {"latents.png": lambda path: latents_pictures.directions(path, results)}
    return Report(results, text(results), pictures)


def _results(subject: Subject, found: Profile, project: Project) -> dict[str, Any]:
    """As the JSON file holds them."""
    statistics, store = subject.statistics, subject.store
    drawn = found.drawn
    return {
        "latents": str(store.root),
        "files": len(store.of("train")),
        "frames": statistics.frames,
        "frame_seconds": None if store.codec is None else store.codec.hop / store.codec.sample_rate,
        "dimensions": statistics.dimensions,
        "carrying": int(found.carrying.sum()),
        "posterior_known": found.posterior is not None,
        "bits": None if found.bits is None else _sum(found.bits[found.carrying]),
        "keep": project.latents.keep,
        "kept": [] if subject.whitening is None else _kept(subject, project),
        "trouble": subject.trouble,
        "noise": int(found.stored.noise.sum()),
        "noise_if_drawn": None if drawn is None else int(drawn.noise.sum()),
        "directions": _directions(found),
        "extent": _extents(subject),
        "loss": _losses(found, project),
    }


def _kept(subject: Subject, project: Project) -> list[int]:
    return subject.statistics.kept(project.latents.keep).tolist()


def _directions(found: Profile) -> list[dict[str, Any]]:
    """One row a direction; None where the posterior is not known."""
    stored, drawn, nothing = found.stored, found.drawn, [None] * len(found.within)
    fidelity = stored.variance.cumsum(0) / stored.variance.sum().clamp(min=1e-300)
    columns: dict[str, Tensor | None] = {
        "variance": stored.variance,
        "posterior": found.posterior,
        "bits": found.bits,
        "fidelity": fidelity,
        "lag_1": stored.autocorrelation[0],
        "correlation_time": stored.correlation_time,
        "kurtosis": stored.kurtosis,
        "within_1_std": found.within,
        "drawn_variance": None if drawn is None else drawn.variance,
        "drawn_lag_1": None if drawn is None else drawn.autocorrelation[0],
        "drawn_kurtosis": None if drawn is None else drawn.kurtosis,
    }
    values = [nothing if x is None else _rounded(x) for x in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{x:.5g}") for x in values.tolist()]


def _sum(values: Tensor) -> float:
    return round(float(values.sum()), 3)


def _extents(subject: Subject) -> dict[str, Any]:
    """How far raw latents reach, and those that a model sees."""
    statistics, whitening = subject.statistics, subject.whitening
    spread = torch.from_numpy(statistics.covariance.diagonal().copy()).sqrt()
    raw = map(_tensor, subject.pieces("reach of raw latents"))
    found = {"raw": _extent(raw, torch.from_numpy(statistics.mean), spread)}
    if whitening is not None:
        final = (whitening.whiten(_tensor(z)) for z in subject.pieces("reach of final latents"))
        spread = whitening.variance.double().sqrt()
        found["final"] = _extent(final, torch.zeros_like(spread), spread)
    return found


def _tensor(piece: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(piece, dtype=np.float32))


def _extent(pieces: Iterable[Tensor], mean: Tensor, std: Tensor) -> dict[str, Any]:
    found = extent.measure(pieces, mean, std)
    return {**asdict(found), "noise_reaches": found.noise_reaches}


def _losses(found: Profile, project: Project) -> dict[str, Any]:
    """Of models of all D directions: of draws, or of what is stored where it is noise itself."""
    schedule = noise.schedule_of(project.diffusion)
    logsnr = schedule((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    objectives = {
        "eps, l1": Objective("eps", kind="l1"),
        "eps, mse": Objective("eps"),
        "v, mse": Objective("v"),
    }
    by_name = {k: draws.losses(o, logsnr, found.unlearnable) for k, o in objectives.items()}
    dimensions = len(found.unlearnable)
    return {
        "of_draws": found.posterior is not None,
        "schedule": schedule.name,
        "objectives": {
            name: {**asdict(row), "unlearnable": row.unlearnable} for name, row in by_name.items()
        },
        "one_output": {k: draws.one_output(k, dimensions) for k in ("l1", "mse")},
    }
