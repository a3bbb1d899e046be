"""What to do about each cause, given the settings in force: never what is so already.

`settings` are those of the training, with today's `sampling`.
"""

from __future__ import annotations

from collections.abc import Iterable

from latentdiff.diffusion.schedules import SCHEDULES
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.latents.outliers import Kind
from latentdiff.model.project import Project
from latentdiff.training.settings import TrainingConfig
from latentdiff.training.verdict import FORM_ADVISED

CLIP = 1.0
"""The default training.gradient_clip."""
STRONG_DECAY = 0.01
"""Share of the weights that weight decay takes in a step, from which it undoes what is learned."""
SMALLEST = 8
"""The least network.channels."""
MANY_STEPS = 100
"""Sampling steps beyond which more change nothing."""
USUAL_DROPOUT = 0.1
"""The default condition.dropout."""
LOWEST_LOGSNR = -10.0
"""The default diffusion.schedule.logsnr_min."""


# --- latents and conditions


def sampled_posteriors(settings: Project, stored: bool) -> str:
    """`stored`: whether the stored latents are posterior samples, or only training drew them."""
    steps = []
    if stored:
        steps.append("encode again with `latentdiff encode`, which stores the means")
    steps += [f"set {setting}" for setting in settings.recipe.undo("data.posterior")]
    if not steps:
        return "train again with --overwrite: the stored latents are means now."
    return f"{', '.join(steps)}, and train again."


def kept_noise(settings: Project, kept: int) -> str:
    """Advice when noise directions are kept; `kept`: number of directions that the model uses."""
    keep, steps = settings.latents.keep, []
    if keep != "auto":
        steps.append("set latents.keep=auto")
    elif kept > 1:
        steps.append(f"set latents.keep to a number below {kept}")
    if keep == "auto":
        steps.append("encode with a codec that was trained longer, or with a smaller beta")
    return f"{', or '.join(steps)}; then train again."


def changed_latents() -> str:
    """Advice when the store is not the one used in training."""
    return "name the latents of the training with --latents, or train again with --overwrite."


def misaligned() -> str:
    """Advice when stored conditions come too early or too late."""
    return (
        "make the features from the very audio that was encoded, without cutting or padding one of "
        "them: `latentdiff encode` writes both from one recording. Then train again."
    )


def outliers(kind: Kind) -> str:
    """Advice when some files do not belong with the others."""
    return {
        "codecs": "encode all recordings again with one codec, and train again.",
        "offset": "encode these files again, without changing their latents afterwards, and train "
        "again.",
        "scale": "encode these files again, from audio as loud as the others, and train again.",
        "level": "bring these recordings to the level of the others, encode them again, and train "
        "again.",
        "constant": "cut the silence (data.trim, or remove these files), preprocess and encode "
        "again, and train again.",
    }[kind]


def leak() -> str:
    """Advice when held-out files are also trained on."""
    return (
        "remove the copies of these recordings, then preprocess, encode and train again: until "
        "then overfitting cannot be seen, and held-out figures mean nothing."
    )


def unpaired() -> str:
    """Advice when stored conditions belong to other latents."""
    return (
        "pair them by file name, never by their order in a folder: `latentdiff encode` writes both "
        "from one recording. Then train again."
    )


def trained_unpaired(settings: Project) -> str:
    """Advice when training used the conditions of other latents."""
    return _repaired(settings) or "train again: the stored conditions are right now."


def ignored_condition(settings: Project) -> str:
    """Advice when the model does as well with wrong conditions."""
    if repaired := _repaired(settings):
        return repaired
    steps = ["train longer", "check that each recording has its own condition"]
    if settings.condition.dropout > USUAL_DROPOUT:
        steps.append(f"lower condition.dropout (now {settings.condition.dropout:g})")
    return _sentence(steps)


def _repaired(settings: Project) -> str:
    """Deliberate mistakes that corrupt the condition; empty if there are none."""
    fixes = settings.recipe.undo("data.pairing", "network.layout")
    return f"set {' and '.join(fixes)}, and train again." if fixes else ""


# --- the course of the training


def ran_away(settings: Project) -> str:
    """Advice when the loss or the weights diverged."""
    steps = [*_less_decay(settings), f"train again with {_lower_rate(settings)}"]
    steps.append("with a tenth of that if this happens again")
    if settings.training.gradient_clip is None:
        steps.append(f"set training.gradient_clip={CLIP:g}")
    return _sentence(steps)


def strong_decay() -> str:
    """Advice when weight decay keeps the weights from growing."""
    return "set training.weight_decay=0, and train again."


def low_clip() -> str:
    """Advice when gradients are clipped to almost nothing."""
    return f"set training.gradient_clip={CLIP:g}, and train again."


def low_rate() -> str:
    """Advice when the learning rate is far below the default."""
    rate = TrainingConfig().learning_rate
    return f"set training.learning_rate={rate:g}, and train again."


def long_warm_up() -> str:
    """Advice when the learning rate was still rising when training ended."""
    return "set training.warmup_steps=null, and train again."


def worse_than_nothing(settings: Project) -> str:
    """Advice when held-out losses are no better than knowing only variances."""
    return _sentence(["follow the other findings", _longer(settings), "add recordings"])


def no_form(settings: Project) -> str:
    """Advice when a model has no skill at the noisiest levels."""
    kinds = settings.condition.chosen
    missing = [kind for kind in FORM_ADVISED if kind not in kinds]
    if missing:
        # In addition to those that are followed now.
        wanted = ",".join([*FORM_ADVISED, *(kind for kind in kinds if kind not in FORM_ADVISED)])
        return f"encode and train again with condition.kinds={wanted}."
    return f"{_longer(settings)}, or see why the conditions {', '.join(kinds)} are not followed."


def clipped(settings: Project) -> str:
    """Advice when nearly all gradients exceed training.gradient_clip."""
    limit = settings.training.gradient_clip
    assert limit is not None  # else nothing is clipped
    if limit < CLIP:
        return f"raise training.gradient_clip (now {limit:g}; {CLIP:g} is usual)."
    steps = [f"train again with {_lower_rate(settings)}"]
    if settings.diffusion.weighting != "uniform":
        steps.append(
            f"or raise training.gradient_clip (now {limit:g}): the weighting "
            f"{settings.diffusion.weighting} makes gradients large"
        )
    return _sentence(steps)


def overfitting(settings: Project) -> str:
    """Advice when the held-out loss rises while the training loss falls."""
    steps, width = ["add recordings"], settings.network.width
    if width > SMALLEST:
        steps.append(f"use a smaller network (network.channels below {width})")
    if settings.training.patience is None:
        steps.append("set training.patience=10 to stop such trainings early")
    return f"{_sentence(steps)} Samples are drawn from `best`, the weights before the rise."


def one_level_a_batch(settings: Project) -> str:
    """Advice when all windows of a batch share one noise level."""
    if fixes := settings.recipe.undo("training.levels"):
        return f"set {fixes[0]}, and train again."
    return (
        f"raise training.batch (now {settings.training.batch}): the levels of a step spread over "
        "its batch."
    )


def untrained_levels(settings: Project) -> str:
    """Advice when the model is worse than the baseline at some noise levels."""
    if fixes := settings.recipe.undo("data", "network", "training"):
        return f"set {' and '.join(fixes)}, and see the other findings."
    steps, levels = [], settings.diffusion.levels.name
    if levels in ("logit-normal", "edm"):
        steps.append(f"set diffusion.levels.name=schedule: {levels} hardly visits some levels")
    if not settings.diffusion.precondition:
        steps.append("set diffusion.precondition=true: every level then begins at skill 0")
    return _sentence([*steps, "train longer"])


def underfit(settings: Project) -> str:
    """Advice when the model has learned less than a linear filter."""
    training = settings.training
    steps = [*_less_decay(settings), _longer(settings)]
    if training.gradient_clip is not None and training.gradient_clip < CLIP:
        steps.append(f"raise training.gradient_clip (now {training.gradient_clip:g})")
    steps.append(f"try {_lower_rate(settings)}, and {10 * training.learning_rate:.2g}")
    return _sentence(steps)


def _longer(settings: Project) -> str:
    training = settings.training
    if training.steps is None:
        return f"train longer (training.hours, now {training.hours:g})"
    return f"train longer (training.steps, now {training.steps})"


def _lower_rate(settings: Project) -> str:
    return f"training.learning_rate={settings.training.learning_rate / 10:.2g}"


def _less_decay(settings: Project) -> list[str]:
    training = settings.training
    if training.weight_decay * training.learning_rate < STRONG_DECAY:
        return []
    return [
        f"set training.weight_decay=0 first: {training.weight_decay:g} undoes what is learned",
    ]


# --- the network and its samples


def batch_norm(settings: Project) -> str:
    """Advice when the network has BatchNorm."""
    fixes = settings.recipe.undo("network.norm", "training.levels")
    if fixes:
        return f"set {' and '.join(fixes)}, and train again."
    return "use GroupNorm or LayerNorm, as every network of `network.name` does."


def growing_stream(settings: Project) -> str:
    """Advice when the blocks' outputs grow from one to the next."""
    steps = [f"train again with {_lower_rate(settings)}"]
    if settings.network.name != "diffwave":
        steps.append("try network.name=diffwave, which sums what its blocks put out")
    return _sentence(steps)


def weak_condition(settings: Project) -> str:
    """Advice when the condition is tiny compared with the signal it is added to."""
    return (
        f"train again with {_lower_rate(settings)}: the signal has outgrown the condition; check "
        "that the conditions of recordings differ."
    )


def shut_gates(settings: Project) -> str:
    """Advice when gates are saturated."""
    return f"train again with {_lower_rate(settings)}."


def dead_output() -> str:
    """Advice when the network's output is nearly zero."""
    return "follow the other findings; if there are none, train longer."


def schedule(settings: Project) -> str:
    """Advice when the schedule has warnings."""
    config = settings.diffusion.schedule
    compare = "`latentdiff diagnose schedule` compares others"
    if "logsnr_min" not in SCHEDULES[config.name].reads:
        return f"set diffusion.schedule.name=cosine, and train again; {compare}."
    # A continuous schedule goes wrong only through its limits.
    if config.logsnr_min == LOWEST_LOGSNR:
        return f"choose another diffusion.schedule, and train again: {compare}."
    return (
        f"set diffusion.schedule.logsnr_min={LOWEST_LOGSNR:g} (now {config.logsnr_min:g}), and "
        f"train again; {compare}."
    )


def weak_samples(settings: Project, drawn: SamplingConfig) -> str:
    """Advice when the samples' spread is too small; `drawn`: settings with autoguidance
    resolved."""
    steps = [*_less_bending(settings), "train longer"]
    if _guidable(settings):
        steps.append(f"raise sampling.guidance (now {drawn.guidance:g})")
    if drawn.autoguidance != "auto" and drawn.autoguidance <= 1:
        steps.append(f"raise sampling.autoguidance (now {drawn.autoguidance:g})")
    return _sentence(steps)


def wild_samples(settings: Project, drawn: SamplingConfig) -> str:
    """Advice when the samples' spread is too large; `drawn`: settings with autoguidance
    resolved."""
    steps = _less_bending(settings)
    if drawn.guidance > 1:
        steps.append(f"lower sampling.guidance (now {drawn.guidance:g})")
    if drawn.autoguidance != "auto" and drawn.autoguidance > 1:
        steps.append(f"lower sampling.autoguidance (now {drawn.autoguidance:g})")
    if drawn.steps < MANY_STEPS:
        steps.append(f"raise sampling.steps (now {drawn.steps})")
    return _sentence([*steps, "train longer if the noisiest levels have little skill"])


def displaced_samples(settings: Project) -> str:
    """Advice when the samples' mean differs from that of the latents."""
    return _sentence([*_less_bending(settings), "train longer, as the noisiest levels decide this"])


def _guidable(settings: Project) -> bool:
    return bool(settings.condition.chosen) and settings.condition.dropout > 0


def _less_bending(settings: Project) -> list[str]:
    """Deliberate mistakes that change finished samples."""
    switches = settings.recipe.undo("sampling.clamp", "sampling.normalise")
    return [f"set {setting}" for setting in switches]


def _sentence(steps: Iterable[str]) -> str:
    return "; ".join(steps) + "."
