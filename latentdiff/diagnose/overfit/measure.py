"""`diagnose overfit`: overfit one picture, and sample it in 1 to 1000 steps.

A model of a single target has nothing to choose from: its best estimate of the clean latents is the
target itself at every noise level, so however many steps a sampler takes, it must end there.

Shapes: N targets, B samples, C latent channels, T frames.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latentdiff import config
from latentdiff.diagnose.overfit import picture
from latentdiff.diagnose.overfit.report import text
from latentdiff.diagnose.overfit.results import DistanceRow, Results
from latentdiff.diagnose.overfit.target import Target, choose
from latentdiff.diagnose.report import Report, run_question
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.model.model import Model, NonFiniteSamples
from latentdiff.model.project import Project
from latentdiff.runs import Run
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import Recording, Windows
from latentdiff.training.trainer import Trainer, TrainingOutcome

log = logging.getLogger(__name__)

STEPS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
SAMPLES = 5
"""Drawn with each number of steps."""
SAMPLING: dict[str, object] = {
    "sampler": "ddpm",
    "eta": 0.0,
    "guidance": 1.0,
    "guidance_interval": None,
    "guidance_rescale": 0.0,
}
"""ddpm is the notebook's sampler, and the most forgiving of an imperfect model in few steps: the
fresh noise of each step lets the model see again what it got wrong in the step before. There is no
condition to guide by."""
TRAINING: dict[str, object] = {
    "hours": None,
    "warmup_steps": None,
    "batch": 16,
    "accumulate": 1,
    "demo_samples": 0,
}
"""Every window of a batch is one of the targets, each at its own noise level."""

AS_IN_NOTEBOOK: dict[str, dict[str, object]] = {
    "diffusion": {
        "parametrisation": "x0",
        "precondition": False,
        "schedule": {"name": "audioldm"},
    },
    "training": {"ema_halflives": [1], "decay": 0.0},
    "sampling": {"spacing": "t"},
    "experiment": {
        "data": {"scaling": "window"},
        "network": {"norm": "batch"},
        "training": {"levels": "batch"},
        "sampling": {"clamp": 1.0},
    },
}
"""BatchNorm, one level a batch, eval() on the last weights, a clamp. x0, because the notebook's one
step was perfect where the network predicted the picture itself."""


def overfit(
    project: Project,
    *,
    run: Run | None = None,
    image: str | None = None,
    latents: Path | None = None,
    windows: int = 1,
    steps: int = 1500,
    minutes: float | None = None,
    as_in_notebook: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> Results | None:
    """Train on one picture or a few windows only, and measure how near samples come.

    `image`: a PNG file, or `target.DRAWN`. None: `windows` of `latents` or of the run's, and
    without these the drawing. `minutes`: train by the clock instead of `steps`. `as_in_notebook`:
    repeat the mistakes of the notebook's attempt. Network and noise are the project's; there is no
    condition. Raises UserError where the target cannot be read.
    """
    project = _settings(project, steps, minutes, as_in_notebook)
    target = choose(project, run, image, latents, windows)
    name = "overfit-as-in-notebook" if as_in_notebook else "overfit"
    sections = ("latents", "diffusion", "network", "training", "sampling", "experiment", "seed")
    return run_question(
        name,
        Results,
        lambda: _report(project, target, as_in_notebook),
        out or (run.diagnosis / name if run else None),
        settings={**project.sections(sections), "windows": windows},
        inputs=target.inputs,
        seed=project.seed,
        overwrite=overwrite,
    )


def _settings(project: Project, steps: int, minutes: float | None, as_in_notebook: bool) -> Project:
    values = project.model_dump(mode="json", exclude={"condition"})
    budget: dict[str, object] = {"steps": steps}
    if minutes is not None:
        budget = {"steps": None, "hours": minutes / 60}
    ours = {
        "condition": {"kinds": []},
        "training": {**TRAINING, **budget},
        "sampling": SAMPLING,
    }
    changes = AS_IN_NOTEBOOK if as_in_notebook else {}
    return config.build(Project, config.merge(values, ours, changes))


def _report(project: Project, target: Target, as_in_notebook: bool) -> Report[Results]:
    count, channels, frames = target.latents.shape
    log.info("target: %s, %d channels, %d frames", target.what, channels, frames)
    for warning in project.recipe.warnings:
        log.warning("%s", warning)
    model, outcome = _train(project, target)
    samples = _sample(model, project.sampling, project.seed)
    distances = [_row(steps, target.distances(latents)) for steps, latents in samples.items()]
    results = Results(
        target=target.what,
        targets=count,
        channels=channels,
        frames=frames,
        as_in_notebook=as_in_notebook,
        steps=outcome.step,
        loss=outcome.training.loss,
        baseline=outcome.training.baseline,
        skill=outcome.training.skill,
        sampler=project.sampling.sampler,
        samples=SAMPLES,
        distances=distances,
    )
    first = {steps: latents[0] for steps, latents in samples.items()}
    medians = {row.steps: row.median for row in distances}
    return Report(
        results,
        text(results),
        {"samples.png": lambda path: picture.draw(path, target.latents[0], first, medians)},
    )


def _row(steps: int, distances: Tensor) -> DistanceRow:
    return DistanceRow(
        steps, float(distances.median()), float(distances.min()), float(distances.max())
    )


def _train(project: Project, target: Target) -> tuple[Model, TrainingOutcome]:
    """The model with its averaged weights, and the outcome of its training."""
    model, frames = target.model(project), target.latents.shape[-1]
    recordings = [Recording(str(k), z.numpy()) for k, z in enumerate(target.latents)]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model.denoiser,
            model.task(),
            Windows(recordings, frames, whiten=model.whiten),
            None,
            project.training.model_copy(update={"window": frames}),
            Path(scratch),
            seed=project.seed,
            device=project.device,
        )
        outcome = trainer.fit()
        model.denoiser.load_state_dict(checkpoint.load_weights(outcome.path).group("network"))
    return replace(model, denoiser=model.denoiser.eval(), step=outcome.step), outcome


def _sample(model: Model, settings: SamplingConfig, seed: int) -> dict[int, Tensor]:
    """Samples [B, C, T] by number of steps, from the same noise each time."""
    seeds = [seed + k for k in range(SAMPLES)]
    samples = {}
    with progress(total=sum(STEPS), unit="step", what="sampling") as bar:
        for steps in STEPS:
            samples[steps] = _sample_once(
                model, settings.model_copy(update={"steps": steps}), seeds
            )
            bar.update(steps)
    return samples


def _sample_once(model: Model, settings: SamplingConfig, seeds: list[int]) -> Tensor:
    try:
        return model.sample(settings, seeds, model.spec.window).latents
    except NonFiniteSamples:
        # A result too: this number of steps leads nowhere.
        return torch.full((len(seeds), model.whitening.channels, model.spec.window), torch.nan)
