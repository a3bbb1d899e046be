"""What wrong conditions cost a model: losses on the same windows and noise, differently told.

Shapes: B windows, K condition features, W frames of a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentdiff.errors import UserError
from latentdiff.latents.store import LatentStore
from latentdiff.model.data import windows_of
from latentdiff.model.model import Model
from latentdiff.specs import Condition
from latentdiff.training.data import Batch
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.validation import Validator


def exchanged(told: Condition, labels: int, features: bool = True, label: bool = True) -> Condition:
    """The condition of each clip replaced: by the features of another, by the next label."""
    wrong = told
    if features and told.features is not None:
        wrong = wrong._replace(features=told.features.roll(len(told.features) // 2, dims=0))
    if label and told.label is not None:
        wrong = wrong._replace(label=(told.label + 1) % labels)
    return wrong


def measure(
    model: Model, store: LatentStore, split: str, settings: TrainingConfig, scratch: Path
) -> dict[str, Any]:
    """Losses on windows of a split (it has files), and by which share wrong conditions raise them.

    `gain`: `Validation.conditioning_gain`; `gains`: the same of further conditions, by name;
    `judged`: the one that tells whether the condition is followed. Raises UserError where there is
    one window only.
    """
    found = windows_of(model, store, split, memory_gb=settings.memory_gb, scratch=scratch)
    assert found is not None
    batch, task = found.spread(settings.validation_windows), model.task()
    device = model.device

    def validator(told: Condition) -> Validator:
        windows = batch._replace(condition=told)
        return Validator(windows, task, settings.validation_levels, settings.batch)

    measured = validator(batch.condition).measure(model.denoiser, device)
    if measured.conditioning_gain is None:
        raise UserError(
            f"the {split} files hold one window only, so no condition can be exchanged",
            do_this="add recordings, or train with a shorter training.window.",
        )
    wrong = {k: validator(x).brief(model.denoiser, device)[0] for k, x in _wrong(model, batch)}
    gains = {name: loss / measured.loss - 1 for name, loss in wrong.items()}
    # Of labels alone: windows half a set away often have the same one.
    by_label = not model.condition.follows_mel
    return {
        "windows": len(batch.files),
        "right": measured.loss,
        "baseline": measured.baseline,
        "exchanged": measured.shuffled,
        "gain": measured.conditioning_gain,
        "judged": gains["other label"] if by_label else measured.conditioning_gain,
        "gains": gains,
    }


def _wrong(model: Model, batch: Batch) -> list[tuple[str, Condition]]:
    """Further conditions to take losses with."""
    told, labels, found = batch.condition, len(model.labels), []
    if model.condition.dropout > 0:
        found.append(("none", Condition()))
    if model.condition.follows_label:
        found.append(("other label", exchanged(told, labels, features=False)))
    if model.condition.kind == "both":
        found.append(("other spectrogram", exchanged(told, labels, label=False)))
    return found
