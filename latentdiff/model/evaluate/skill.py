"""Skill on held-out windows, with baselines that need no training.

Shapes: L noise levels, C latent channels, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentdiff.diffusion import baseline
from latentdiff.model.data import windows_of
from latentdiff.model.evaluate.inputs import EvaluationInputs
from latentdiff.model.evaluate.results import HeldOutSkill
from latentdiff.training.data import Batch, Windows
from latentdiff.training.task import Task, spectrum_of
from latentdiff.training.validation import Validator


def held_out_skill(inputs: EvaluationInputs) -> HeldOutSkill | None:
    """Losses on held-out windows by noise level; None without held-out or training files.

    Raises UserError if latents, labels or condition features are missing or damaged.
    """
    held_out, training = _windows(inputs, "validation"), _windows(inputs, "train")
    if held_out is None or training is None:
        return None
    settings, model = inputs.settings.training, inputs.model
    task, device = model.task(), model.device
    batch = held_out.spread(settings.validation_windows)
    levels = settings.validation_levels
    validation = Validator(batch, task, levels, settings.batch).measure(model.denoiser, device)
    seen = training.spread(settings.validation_windows)
    seen_loss, seen_baseline = Validator(seen, task, levels, settings.batch).brief(
        model.denoiser, device
    )
    zero, wiener = _closed_forms(task, batch, spectrum_of(held_out), validation.logsnr)
    return HeldOutSkill(
        loss=validation.loss,
        baseline=validation.baseline,
        skill=validation.skill,
        conditioning_gain=validation.conditioning_gain,
        training_skill=baseline.skill(seen_loss, seen_baseline),
        windows=len(batch.files),
        logsnr=validation.logsnr,
        losses=validation.losses,
        variance=validation.baselines,
        zero=zero,
        wiener=wiener,
    )


def _windows(inputs: EvaluationInputs, split: str) -> Windows | None:
    memory = inputs.settings.training.memory_gb
    return windows_of(inputs.model, inputs.store, split, memory_gb=memory, scratch=inputs.scratch)


def _closed_forms(
    task: Task, windows: Batch, spectrum: Tensor, logsnr: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Losses [L] of predicting zero and of the Wiener filter, given the power of these windows.

    `spectrum` [C, F] is that of all held-out files. It is scaled to the power of the windows, which
    may be louder or quieter than the files, so that the closed forms compare with the model's loss.
    """
    power = windows.latents.square().mean(dim=(0, 2))
    spectrum = spectrum * (power / spectrum.mean(dim=1).clamp(min=1e-12))[:, None]
    levels = torch.tensor(logsnr)
    return (
        baseline.zero(task.objective, levels, power).tolist(),
        baseline.spectrum_only(task.objective, levels, spectrum).tolist(),
    )
