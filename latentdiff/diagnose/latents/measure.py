"""Measure for `diagnose latents`: how many dimensions carry sound, and what the others do.

Shapes: D latent dimensions and directions, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.diagnose.latents import picture
from latentdiff.diagnose.latents.report import text
from latentdiff.diagnose.latents.results import (
    Direction,
    LatentLosses,
    LatentsResults,
    LossesOfDraws,
)
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diffusion import noise
from latentdiff.diffusion.loss import Objective
from latentdiff.errors import UserError
from latentdiff.evaluation import draws, profile, value_range
from latentdiff.evaluation.profile import Profile
from latentdiff.evaluation.value_range import ValueRange
from latentdiff.latents.statistics import LatentStatistics
from latentdiff.latents.store import LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.model.resolve import latents_path
from latentdiff.runs import Input, Run
from latentdiff.tracking import progress

NAME = "latents"
CHUNK = 1 << 14
"""Frames of a file that are processed together."""
LEVELS = 64
"""Noise levels of the schedule over which a loss is averaged."""
KINDS: tuple[Literal["l1", "mse"], ...] = ("l1", "mse")


@dataclass(frozen=True)
class OpenLatents:
    """A store of latents with its statistics."""

    store: LatentStore
    statistics: LatentStatistics
    whitening: Whitening | None
    """None if `latents.keep` cannot be met; then `trouble` has the reason."""
    trouble: str = ""

    def chunks(self, what: str) -> Iterator[NDArray[np.float32]]:
        """Yield all training latents in chunks [D, T]; `what` labels the progress bar."""
        for entry in progress(self.store.of("train"), unit="file", what=what):
            array = self.store.mean(entry)
            for start in range(0, entry.frames, CHUNK):
                yield np.asarray(array[:, start : start + CHUNK])


def diagnose_latents(
    run: Run | None,
    project: Project,
    *,
    latents: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Describe the training files of `latents`, of the run, or of the folder of latents `run`.

    Writes into `out`, else into the run, else nowhere. Returns nothing skipped. Raises UserError if
    there are no latents.
    """
    path, directory = _paths(run, latents)
    store = LatentStore.open(path)
    settings = {
        "latents": {"keep": project.latents.keep, "scaling": project.latents.scaling},
        "diffusion": project.diffusion.model_dump(mode="json"),
    }
    run_question(
        NAME,
        LatentsResults,
        lambda: _report(_open(store, project), project),
        out or directory,
        settings=settings,
        inputs={"latents": Input(str(path.resolve()), store.fingerprint())},
        overwrite=overwrite,
        dry_run=dry_run,
    )
    return []


def _paths(run: Run | None, latents: Path | None) -> tuple[Path, Path | None]:
    """The latents, and the folder of the report: none for latents without a run."""
    if run is None:
        if latents is None:
            raise UserError("no latents were named", do_this="give a run directory, or --latents.")
        return latents, None
    stages = (run.config, run.latents, run.diffusion)
    if latents is None and not any(path.exists() for path in stages):
        return run.root, None
    return latents_path(run, latents, run.diffusion), run.diagnosis / NAME


def _open(store: LatentStore, project: Project) -> OpenLatents:
    statistics = store.statistics()
    try:
        chosen = project.latents
        whitening = Whitening.from_statistics(statistics, chosen.keep, chosen.scaling)
    except UserError as error:
        # Part of the answer, not the end of this command.
        return OpenLatents(store, statistics, None, error.what)
    return OpenLatents(store, statistics, whitening)


def _report(latents: OpenLatents, project: Project) -> Report[LatentsResults]:
    latent_profile = profile.measure(latents.statistics, lambda: latents.chunks("reading latents"))
    results = _results(latents, latent_profile, project)
    files = {"latents.png": lambda path: picture.directions(path, results)}
    return Report(results, text(results), files)


def _results(latents: OpenLatents, latent_profile: Profile, project: Project) -> LatentsResults:
    statistics, store = latents.statistics, latents.store
    codec, drawn, keep = store.codec, latent_profile.drawn, project.latents.keep
    return LatentsResults(
        latents=str(store.root),
        files=len(store.of("train")),
        frames=statistics.frames,
        frame_seconds=None if codec is None else codec.hop / codec.sample_rate,
        dimensions=statistics.dimensions,
        carrying=int(latent_profile.carrying.sum()),
        posterior_known=latent_profile.posterior is not None,
        bits=None
        if latent_profile.bits is None
        else round(float(latent_profile.bits[latent_profile.carrying].sum()), 3),
        keep=keep,
        kept=[] if latents.whitening is None else [int(k) for k in statistics.kept(keep)],
        trouble=latents.trouble,
        noise=int(latent_profile.stored.noise.sum()),
        noise_if_drawn=None if drawn is None else int(drawn.noise.sum()),
        directions=_directions(latent_profile),
        extent=_ranges(latents),
        loss=_losses(latent_profile, project),
    )


def _directions(latent_profile: Profile) -> list[Direction]:
    stored, drawn, unknown = (
        latent_profile.stored,
        latent_profile.drawn,
        [None] * len(latent_profile.within),
    )
    fidelity = stored.variance.cumsum(0) / stored.variance.sum().clamp(min=1e-300)
    columns = (
        _rounded(stored.variance),
        unknown if latent_profile.posterior is None else _rounded(latent_profile.posterior),
        unknown if latent_profile.bits is None else _rounded(latent_profile.bits),
        _rounded(fidelity),
        _rounded(stored.autocorrelation[0]),
        _rounded(stored.correlation_time),
        _rounded(stored.kurtosis),
        _rounded(latent_profile.within),
        unknown if drawn is None else _rounded(drawn.variance),
        unknown if drawn is None else _rounded(drawn.autocorrelation[0]),
        unknown if drawn is None else _rounded(drawn.kurtosis),
    )
    return [Direction(*row) for row in zip(*columns, strict=True)]


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{x:.5g}") for x in values.tolist()]


def _ranges(latents: OpenLatents) -> dict[str, ValueRange]:
    """Value ranges of the raw latents, and of the model's (whitened) ones."""
    statistics, whitening = latents.statistics, latents.whitening
    std = torch.from_numpy(statistics.covariance.diagonal().copy()).sqrt()
    raw = map(_tensor, latents.chunks("range of raw latents"))
    ranges = {"raw": value_range.measure(raw, torch.from_numpy(statistics.mean), std)}
    if whitening is not None:
        final = (whitening.whiten(_tensor(z)) for z in latents.chunks("range of final latents"))
        std = whitening.variance.double().sqrt()
        ranges["final"] = value_range.measure(final, torch.zeros_like(std), std)
    return ranges


def _tensor(chunk: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(chunk, dtype=np.float32))


def _losses(latent_profile: Profile, project: Project) -> LatentLosses:
    """Losses of models of all D directions, trained on posterior draws or on the stored latents."""
    schedule = noise.schedule_of(project.diffusion)
    logsnr = schedule((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    objectives = {
        "eps, l1": Objective("eps", kind="l1"),
        "eps, mse": Objective("eps"),
        "v, mse": Objective("v"),
    }
    dimensions = len(latent_profile.unlearnable)
    return LatentLosses(
        of_draws=latent_profile.posterior is not None,
        schedule=schedule.name,
        objectives={name: _loss(latent_profile, o, logsnr) for name, o in objectives.items()},
        one_output={kind: draws.one_output(kind, dimensions) for kind in KINDS},
    )


def _loss(latent_profile: Profile, objective: Objective, logsnr: Tensor) -> LossesOfDraws:
    losses = draws.losses(objective, logsnr, latent_profile.unlearnable)
    # Without the posterior only directions that are all noise give it away: where none is, the
    # noise within the others is unknown, not zero.
    known = latent_profile.posterior is not None or bool(latent_profile.unlearnable.any())
    return LossesOfDraws(
        zero=losses.zero,
        variance=losses.variance,
        floor=losses.floor if known else None,
        unlearnable=losses.unlearnable if known else None,
    )
