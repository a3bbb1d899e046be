"""What wrong conditions cost a model: its losses on the same windows and the same noise.

Shapes: B windows, K condition features, W frames of a window.
"""

from __future__ import annotations

from pathlib import Path

import torch

from latentdiff.conditions.label import Label
from latentdiff.diagnose.conditioning.results import KindResult, Losses
from latentdiff.diagnose.followed import exchanges, fits, verdict_of
from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.specs import NO_CONDITION, Condition
from latentdiff.training.data import Batch
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.validation import Validator


def exchanged(condition: Condition, labels: int, *kinds: str) -> Condition:
    """Wrong conditions of these kinds (none given: all): the features of a clip half a set away,
    and the next of `labels` labels."""
    wrong, half = condition, torch.arange(condition.batch).roll(condition.batch // 2)
    for kind in kinds or condition.values:
        if kind == Label.name:
            wrong = wrong.with_kind(kind, (condition.values[kind] + 1) % labels)
        else:
            wrong = wrong.replaced_by(half, [kind])
    return wrong


def measure_losses(
    model: Model, store: LatentStore, split: str, settings: TrainingConfig, scratch: Path
) -> Losses:
    """Losses on windows of a split that has files, with right and wrong conditions.

    Raises UserError where there is only one window.
    """
    all_windows = windows_of(model, store, split, memory_gb=settings.memory_gb, scratch=scratch)
    assert all_windows is not None
    windows, task = all_windows.spread(settings.validation_windows), model.task()

    def validator(condition: Condition) -> Validator:
        batch = windows._replace(condition=condition)
        return Validator(batch, task, settings.validation_levels, settings.batch)

    own = validator(windows.condition).measure(model.denoiser, model.device)
    if own.shuffled is None or own.conditioning_gain is None:
        raise UserError(
            f"the {split} files hold only one window, so conditions cannot be exchanged",
            do_this="add recordings, or train with a shorter training.window.",
        )
    gains = {
        name: validator(wrong).brief(model.denoiser, model.device)[0] / own.loss - 1
        for name, wrong in _wrong_conditions(model, windows).items()
    }
    return Losses(
        windows=len(windows.files),
        right=own.loss,
        baseline=own.baseline,
        exchanged=own.shuffled,
        gain=own.conditioning_gain,
        gains=gains,
    )


def judge(
    model: Model, store: LatentStore, split: str, settings: TrainingConfig, scratch: Path
) -> dict[str, KindResult]:
    """Kind -> whether the model follows it, and whether it fits the latents."""
    windows = windows_of(model, store, split, memory_gb=settings.memory_gb, scratch=scratch)
    assert windows is not None  # the split has files
    fixed, fitted = windows.spread(settings.validation_windows), fits(model, store)
    tested = exchanges(model, fixed, settings)
    return {
        kind: KindResult(
            verdict_of(tested.get(kind), fitted.get(kind)), tested.get(kind), fitted.get(kind)
        )
        for kind in model.kinds
    }


def _wrong_conditions(model: Model, windows: Batch) -> dict[str, Condition]:
    """Wrong conditions, by their names in `Losses.gains`."""
    condition, labels, wrong = windows.condition, len(model.labels), {}
    if model.condition.dropout > 0:
        wrong["none"] = NO_CONDITION
    if len(model.kinds) > 1 or model.labels:
        wrong |= {f"other {kind}": exchanged(condition, labels, kind) for kind in model.kinds}
    return wrong
