"""Whether a model follows each kind of its conditions, and whether they belong to its latents.

Shapes: B windows, C latent channels, K condition features, M wrong conditions, T frames of a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latentdiff.conditions.kind import FeatureKind
from latentdiff.evaluation import alignment, pairing, whiteness
from latentdiff.evaluation.alignment import Alignment
from latentdiff.evaluation.pairing import AlignedFile, Pairing
from latentdiff.evaluation.permutation import Exchange, Following, exchange_test
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import features_of
from latentdiff.model.model import Model
from latentdiff.training.data import Batch
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.validation import Validator, moving

LEVELS = 6
"""Noise levels that losses with exchanged conditions are measured at."""
EXCHANGED = 6
"""Wrong conditions that each window is given, at most."""
PAIRED = 10_000
"""Training frames that suffice to measure how conditions fit latents."""
LONGEST_LAG = 3.0
"""Seconds by which conditions may come too early or too late to be found out."""

Verdict = Following | Literal["misaligned"]


@dataclass(frozen=True)
class Fit:
    """How the stored features of one kind fit the latents, by linear regression."""

    pairing: Pairing
    alignment: Alignment

    @property
    def misaligned(self) -> bool:
        """Whether the features belong to their latents, but come at another time.

        Wrong features have a best lag too; those of other files then predict as much.
        """
        explained = max(self.alignment.explained)
        return not self.alignment.holds and explained > self.pairing.best_wrong


def exchanges(model: Model, windows: Batch, settings: TrainingConfig) -> dict[str, Exchange]:
    """Kind -> the losses of a model on windows with that kind right and exchanged.

    Without kinds that no two files have.
    """
    found = {}
    for kind in windows.condition.values:
        having = windows.pick(_having(windows, kind))
        wrong = list(_wrong(model, having, kind))
        if not wrong:
            continue
        validator = Validator(having, model.task(), LEVELS, settings.batch)
        own, *others = (
            validator.table(model.denoiser, batch, model.device).mean(dim=0).numpy()
            for batch in (having, *wrong)
        )
        constant = kind not in moving(having)
        groups = having.files.numpy() if constant else np.arange(len(own))
        found[kind] = exchange_test(own, np.stack(others), groups)
    return found


def _having(windows: Batch, kind: str) -> Tensor:
    """Indices of the windows that have this kind."""
    given = windows.condition.given.get(kind)
    return torch.arange(len(windows.files)) if given is None else given.nonzero()[:, 0]


def _wrong(model: Model, windows: Batch, kind: str) -> Iterator[Batch]:
    """The windows with other categories, or with the features of other files."""
    condition, files = windows.condition, windows.files
    value = condition.values.get(kind)
    if value is None or len(files) == 0:
        return
    if value.ndim == 1:
        count = len(model.labels)
        for step in range(1, min(count, EXCHANGED + 1)):
            yield windows._replace(condition=condition.with_kind(kind, (value + step) % count))
        return
    names = torch.unique(files)
    for step in range(1, min(len(names), EXCHANGED + 1)):
        order = _of_other_files(files, names, step)
        yield windows._replace(condition=condition.replaced_by(order, [kind]))


def _of_other_files(files: Tensor, names: Tensor, step: int) -> Tensor:
    """[B] a window of the file `step` further on, for each window; one after another."""
    place = torch.searchsorted(names, files)
    order = torch.empty_like(files)
    for k in range(len(names)):
        mine = (place == k).nonzero()[:, 0]
        theirs = (place == (k + step) % len(names)).nonzero()[:, 0]
        order[mine] = theirs[torch.arange(len(mine)) % len(theirs)]
    return order


def fits(model: Model, store: LatentStore) -> dict[str, Fit]:
    """Kind -> how its stored features fit the latents of the training files.

    Measured on channels with structure along time: white noise cannot be predicted.
    """
    found = {}
    for kind in model.kinds.values():
        if not isinstance(kind, FeatureKind):
            continue
        files = _files(model, store, kind.name)
        chosen = ~whiteness.white(z for z, _ in files) if files else torch.zeros(0)
        if not chosen.any():
            continue
        files = [(z[chosen], features) for z, features in files]
        frame = 1 / model.codec.frame_rate
        found[kind.name] = Fit(
            pairing.pairing(files), alignment.alignment(files, frame, LONGEST_LAG)
        )
    return found


def _files(model: Model, store: LatentStore, kind: str) -> list[AlignedFile]:
    """Final latents and standardised features of training files that have the kind."""
    files, frames = [], 0
    for entry in store.of("train"):
        features = features_of(model, store, entry)[kind]
        if features is None:
            continue
        latents = torch.from_numpy(np.array(store.mean(entry), dtype=np.float32))
        standardised = torch.from_numpy(model.standardisers[kind](np.asarray(features)))
        files.append((model.whiten(latents), standardised))
        frames += entry.frames
        if frames > PAIRED:
            break
    return files


def verdict_of(exchange: Exchange | None, fit: Fit | None) -> Verdict:
    """The verdict on one kind: a model may well follow conditions that come at the wrong time."""
    if fit is not None and fit.misaligned:
        return "misaligned"
    return "not judged" if exchange is None else exchange.grade
