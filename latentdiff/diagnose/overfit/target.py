"""What is overfitted: a picture, or a few windows of latents.

Shapes: N targets, B samples, C latent channels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from latentdiff import runs
from latentdiff.errors import UserError
from latentdiff.evaluation import image
from latentdiff.latents.store import CodecFacts, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.data import fit_window, prepare, windows_of
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.spec import ModelSpec
from latentdiff.runs import Input, Run

DRAWN = "drawn"
"""Use the built-in drawing instead of a file."""
LEAST_VARIANCE = 1e-3
"""Lower bound of a channel's variance: a row of a picture may be all black."""


@dataclass(frozen=True)
class Target:
    """The signals that a model is overfitted to."""

    what: str
    """Description for the report."""
    latents: Tensor
    """[N, C, T], final."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """The file or store that it comes from."""

    def distances(self, samples: Tensor) -> Tensor:
        """[B]: RMS of samples [B, C, T] minus their nearest target, over the targets' RMS."""
        error = (samples[:, None] - self.latents[None]).square().mean(dim=(2, 3))
        return (error.amin(dim=1) / self.latents.square().mean()).sqrt()

    def model(self, project: Project) -> Model:
        """An untrained, unconditional model of the targets, without whitening."""
        _, channels, frames = self.latents.shape
        variance = self.latents.square().mean(dim=(0, 2)).clamp(min=LEAST_VARIANCE)
        as_they_are = Whitening(
            torch.zeros(channels), torch.eye(channels), torch.ones(channels), variance
        )
        no_codec = CodecFacts("", project.data.sample_rate, project.latents.hop, channels, 1)
        training = project.training.model_copy(update={"window": frames})
        spec = ModelSpec.of(project.model_copy(update={"training": training}), no_codec)
        return Model.create(spec, as_they_are, seed=project.seed)


def choose(
    project: Project, run: Run | None, picture: str | None, latents: Path | None, windows: int
) -> Target:
    """The picture, or `windows` windows of `latents` or of the run's; without either, a drawing.

    Raises UserError where both are given, or the one given cannot be read.
    """
    if picture is not None and latents is not None:
        raise UserError("there can be only one target", do_this="give --image or --latents.")
    store = latents or (run.latents if run and run.latents.exists() else None)
    if picture is None and store is not None:
        return _windows(project, store, windows)
    return _picture(project, picture or DRAWN)


def _picture(project: Project, picture: str) -> Target:
    if picture == DRAWN:
        what, pixels, inputs = "a drawing", image.drawn()[None], {}
    else:
        path = Path(picture)
        what, pixels = picture, image.read(path)[None]
        inputs = {"image": Input(picture, runs.sha256_file(path))}
    transform = project.recipe.transform_windows
    return Target(what, pixels if transform is None else transform(pixels), inputs)


def _windows(project: Project, path: Path, count: int) -> Target:
    """At most `count` windows, evenly spread over the training files of a store."""
    store = LatentStore.open(path)
    project = fit_window(store, project)
    data = prepare(store, project)
    train = windows_of(data.model, data.store, "train", memory_gb=project.training.memory_gb)
    assert train is not None  # `fit_window` saw the files
    latents = train.spread(count).latents
    inputs = {"latents": Input(str(path.resolve()), store.fingerprint())}
    return Target(f"{len(latents)} of the windows of {path}", latents, inputs)
