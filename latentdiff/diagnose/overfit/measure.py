"""`diagnose overfit`: one picture learned by heart, and samples of it in 1 to 1000 steps.

A model of a single target has nothing to choose from: the best estimate of the clean latents is the
target itself at every level, so however many steps a sampler takes, it must end there.

Shapes: N targets, B samples, C latent channels, T frames.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from latentdiff import config, runs
from latentdiff.diagnose.overfit import picture as overfit_pictures
from latentdiff.diagnose.overfit.report import text
from latentdiff.diagnose.report import Report, folder_of, tell
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.errors import UserError
from latentdiff.evaluation import image as images
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import fit_window, prepare, windows_of
from latentdiff.model.project import Project
from latentdiff.runs import Input, Run
from latentdiff.tracking import progress
from latentdiff.training import checkpoint
from latentdiff.training.data import Recording, Windows
from latentdiff.training.trainer import Trainer, TrainingOutcome

log = logging.getLogger(__name__)

STEPS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
DRAWN = "drawn"
"""In place of a file: our own drawing."""
SAMPLER = "ddpm"
"""The notebook's. Of itself it errs least with few steps and a model that is not perfect: what the
model gets wrong in one step, the fresh noise of the next lets it see again."""
SAMPLES = 5
"""Drawn with each number of steps."""
BATCH = 16
"""Noise levels of a training step, mostly of one and the same target."""
LEAST_VARIANCE = 1e-3
"""Of a channel: a row of a picture may be all black."""

AS_IN_NOTEBOOK: dict[str, Any] = {
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
"""BatchNorm, one level a batch, eval() on the last weights, a clamp. x0, as the notebook's one step
was perfect where the picture itself was predicted. `experiment.network.integer_steps` can be added;
alone it does little harm to a model that has one answer only."""


@dataclass(frozen=True)
class Goal:
    """What is to be learned by heart."""

    what: str
    latents: Tensor
    """[N, C, T]."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """The file or store that it comes from."""

    def distances(self, samples: Tensor) -> Tensor:
        """[B]: of samples [B, C, T] from the nearest target, RMS over that of the targets."""
        apart = (samples[:, None] - self.latents[None]).square().mean(dim=(2, 3))
        return (apart.amin(dim=1) / self.latents.square().mean()).sqrt()


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
) -> dict[str, Any] | None:
    """Train on a picture or a few windows only, sample it in 1 to 1000 steps, tell how far off.

    `image`: a PNG file, or DRAWN. None: `windows` of `latents` or of the run's, or where there are
    none the drawing. `minutes`: instead of `steps` of training. `as_in_notebook`: with the mistakes
    of the notebook's attempt. Network and noise are the project's, the sampler is ddpm; nothing is
    conditioned on. Returns the results. Raises UserError where the target cannot be read.
    """
    project = _settings(project, steps, minutes, as_in_notebook)
    goal = _goal(project, run, image, latents, windows)
    name = "overfit-as-in-notebook" if as_in_notebook else "overfit"
    sections = ("latents", "diffusion", "network", "training", "sampling", "experiment", "seed")
    return tell(
        name,
        lambda: _report(project, goal, as_in_notebook),
        out or (folder_of(run, name) if run else None),
        settings={**project.sections(sections), "windows": windows},
        inputs=goal.inputs,
        seed=project.seed,
        overwrite=overwrite,
    )


def _settings(project: Project, steps: int, minutes: float | None, as_in_notebook: bool) -> Project:
    values = project.model_dump(mode="json", exclude={"condition"})
    budget: dict[str, Any] = {
        "steps": steps,
        "hours": None,
        "warmup_steps": None,
        "batch": BATCH,
        "accumulate": 1,
        "demo_samples": 0,
    }
    if minutes is not None:
        budget |= {"steps": None, "hours": minutes / 60}
    changes = AS_IN_NOTEBOOK if as_in_notebook else {}
    ours = {"training": budget, "sampling": {"sampler": SAMPLER}}
    return config.build(Project, config.merge(values, ours, changes))


def _goal(
    project: Project, run: Run | None, picture: str | None, latents: Path | None, windows: int
) -> Goal:
    if picture is not None and latents is not None:
        raise UserError("there can be one target only", do_this="give --image or --latents.")
    where = latents or (run.latents if run and run.latents.exists() else None)
    if picture is None and where is not None:
        return _windows_of(project, where, windows)
    return _picture(project, picture or DRAWN)


def _picture(project: Project, picture: str) -> Goal:
    """The file, or our own drawing."""
    if picture == DRAWN:
        what, read, inputs = "a drawing", images.drawn()[None], {}
    else:
        path = Path(picture)
        what, read = picture, images.read(path)[None]
        inputs = {"image": Input(picture, runs.sha256_file(path))}
    scaled = project.recipe.transform_windows
    return Goal(what, read if scaled is None else scaled(read), inputs)


def _windows_of(project: Project, where: Path, count: int) -> Goal:
    """At most so many windows, evenly spread over the training files of a store."""
    store = LatentStore.open(where)
    project = fit_window(store, project)
    data = prepare(store, project)
    train = windows_of(data.model, data.store, "train", memory_gb=project.training.memory_gb)
    assert train is not None  # `fit_window` saw the files
    latents = train.spread(count).latents
    inputs = {"latents": Input(str(where.resolve()), store.fingerprint())}
    return Goal(f"{len(latents)} of the windows of {where}", latents, inputs)


def _report(project: Project, goal: Goal, as_in_notebook: bool) -> Report:
    count, channels, frames = goal.latents.shape
    log.info("target: %s, %d channels, %d frames", goal.what, channels, frames)
    for warning in project.recipe.warnings:
        log.warning("%s", warning)
    denoiser, outcome = _train(project, goal)
    samples = _sample(project, denoiser, goal)
    found = {steps: goal.distances(x) for steps, x in samples.items()}
    results = {
        "target": goal.what,
        "targets": count,
        "channels": channels,
        "frames": frames,
        "as_in_notebook": as_in_notebook,
        "steps": outcome.step,
        **{key: getattr(outcome.training, key) for key in ("loss", "baseline", "skill")},
        "sampler": project.sampling.sampler,
        "samples": SAMPLES,
        "distances": [
            {
                "steps": steps,
                "median": float(x.median()),
                "least": float(x.min()),
                "most": float(x.max()),
            }
            for steps, x in found.items()
        ],
    }
    medians = {steps: float(x.median()) for steps, x in found.items()}
    first = {steps: x[0] for steps, x in samples.items()}
    return Report(
        results,
        text(results),
        {"samples.png": lambda path: overfit_pictures.strip(path, goal.latents[0], first, medians)},
    )


def _train(project: Project, goal: Goal) -> tuple[Denoiser, TrainingOutcome]:
    """The denoiser with its averaged weights, and what training has come to."""
    channels, frames = goal.latents.shape[1:]
    variance = goal.latents.square().mean(dim=(0, 2)).clamp(min=LEAST_VARIANCE)
    recipe = project.recipe
    denoiser = recipe.make_denoiser(channels=channels, seed=project.seed, variance=variance)
    recordings = [Recording(str(k), z.numpy()) for k, z in enumerate(goal.latents)]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            denoiser,
            recipe.make_task(variance),
            Windows(recordings, frames, whiten=lambda z: z),
            None,
            project.training.model_copy(update={"window": frames}),
            Path(scratch),
            seed=project.seed,
            device=project.device,
        )
        outcome = trainer.fit()
        denoiser.load_state_dict(checkpoint.load_weights(outcome.path).group("network"))
    return denoiser.eval(), outcome


def _sample(project: Project, denoiser: Denoiser, goal: Goal) -> dict[int, Tensor]:
    """Samples [B, C, T] by number of steps, from the same noise each time, on the CPU."""
    recipe, device = project.recipe, next(denoiser.parameters()).device
    channels, frames = goal.latents.shape[1:]
    seeds = [project.seed + k for k in range(SAMPLES)]
    drawn = {}
    with progress(total=sum(STEPS), unit="step", what="sampling") as bar:
        for steps in STEPS:
            x = recipe.sample(
                recipe.denoise_for_sampling(denoiser, steps),
                project.sampling.model_copy(update={"steps": steps}),
                seeds,
                channels,
                frames,
                device=device,
                variance=denoiser.variance,
            )
            drawn[steps] = x.float().cpu()
            bar.update(steps)
    return drawn
