"""What the numbers mean, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from latentdiff.training.validation import Validation

NO_SKILL = 0.02
"""Skill below which a model has learned nothing."""
LITTLE_DISTILLED = 0.3
"""Skill below which a distilled model is far from what it can learn."""
LEARNABLE = 0.05
"""Skill of the spectrum-only denoiser above which latents have structure along time."""
STARVING = 0.05
"""Share of the time spent waiting for data above which the progress bar shows it."""
LITTLE_GAIN = 0.01
"""Conditioning gain below which the condition is ignored: labels that say little have 0.02 to 0.04,
wrong ones 0.00. `diagnose conditioning` tests whether a gain is chance."""
MUCH_GAIN = 0.5
"""Conditioning gain above which the condition is followed."""

FORM_LOGSNR = -4.0
"""Log-SNR below which only slow things can be seen through the noise: where the beat is, and which
piece it is."""
FORM_SKILL = 0.15
"""Skill there below which samples have no form. Without conditions, with style or label alone or
with shuffled ones 0.00 to 0.07 (of synthetic and recorded music, windows of 2 to 6 s), with beat,
chroma or loudness 0.4 to 0.6, with a spectrogram 0.5 to 0.8."""
FORM_ADVISED = ("style", "beat")
"""Kinds of conditions that give form and need no recording to follow."""
PIECE = "style"
"""The kind of condition that keeps a sample in one piece, but does not say when things happen."""
BEAT_KINDS = ("beat", "mel", "chroma", "loudness")
"""Kinds of conditions that say when something happens."""

Grade = Literal["ignored", "weak", "followed"]
GRADES: dict[Grade, str] = {
    "ignored": "the condition is ignored: the model does as well with another clip's condition. "
    "Check that latents and conditions belong together, or train longer",
    "weak": "the condition has a weak effect (`latentdiff diagnose conditioning` tests whether it "
    "is chance)",
    "followed": "the condition is followed",
}


def some(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def short(values: Mapping[str, float]) -> str:
    """Loss, baseline and skill on one line."""
    loss, baseline, skill = values["loss"], values["baseline"], values["skill"]
    return f"loss {loss:.3f} baseline {baseline:.3f} skill {skill:.2f}"


def validation(step: int, result: Validation, training: Mapping[str, float], kept: bool) -> str:
    """The log line of a validation; `kept`: whether its weights become the best ones."""
    gain = result.conditioning_gain
    on_training = training["skill"] if result.training_skill is None else result.training_skill
    parts = [
        f"step {step}: validation loss {result.loss:.4f}, baseline {result.baseline:.4f}, "
        f"skill {result.skill:.3f} (training {on_training:.3f})"
    ]
    if gain is not None:
        parts.append(f"conditioning gain {gain:.2f}")
    if not kept:
        parts.append("the loss has risen, so these weights are not kept")
    return ", ".join(parts)


def skill(value: float) -> str:
    """A skill in words."""
    if value < NO_SKILL:
        return "nothing was learned: knowing the variance of each channel does as well"
    if value < 0.2:
        return "little was learned"
    if value < 0.5:
        return "learned something; train longer or try a larger network"
    return "learned"


def form_skill(result: Validation) -> float | None:
    """Mean skill at the noise levels where form is decided; None: the schedule has none."""
    low = [k for k, level in enumerate(result.logsnr) if level < FORM_LOGSNR]
    skills = [1 - result.losses[k] / result.baselines[k] for k in low]
    return sum(skills) / len(skills) if skills else None


def form(result: Validation) -> str | None:
    """What a model without skill where form is decided is told; None: it has some."""
    value = form_skill(result)
    if value is None or value >= FORM_SKILL or result.skill < NO_SKILL:
        return None
    followed = {kind for kind, gain in result.gains.items() if gain >= LITTLE_GAIN}
    if followed & set(BEAT_KINDS):
        return None
    return (
        f"no form: skill {value:.2f} below log-SNR {FORM_LOGSNR:g}, so {formless(followed)}; "
        f"encode and train with condition.kinds={','.join(FORM_ADVISED)}"
    )


def formless(followed: Collection[str]) -> str:
    """What samples without form are like; `followed`: the kinds that the model follows."""
    wander = "" if PIECE in followed else " and wander from piece to piece"
    return f"samples will have no beat{wander}"


def grade(gain: float) -> Grade:
    """A conditioning gain in one word."""
    if gain < LITTLE_GAIN:
        return "ignored"
    return "weak" if gain < MUCH_GAIN else "followed"


def conditioning(gain: float) -> str:
    """A conditioning gain in words."""
    return GRADES[grade(gain)]


def distilled(value: float) -> str:
    """The skill of a distilled model in words."""
    if value < NO_SKILL:
        return "nothing was learned: one call of the teacher, from which it began, does as well"
    if value < LITTLE_DISTILLED:
        return "little was learned; train longer"
    return "learned"


def no_skill(step: int, values: Mapping[str, float], learnable: float | None) -> str:
    """Early warning that nothing is being learned, and what to check.

    `learnable`: skill of the spectrum-only denoiser on the same latents; None: of a distillation,
    whose baseline is another.
    """
    if learnable is None:
        return (
            f"no skill after {step} steps: the distance to the teacher's samples is "
            f"{values['loss']:.4f}; one call of the teacher, from which training began, has "
            f"{values['baseline']:.4f}.\n  look at: training.learning_rate (try a tenth), and the "
            "gradient_norm curve"
        )
    if learnable < LEARNABLE:
        checks = (
            "these latents look like white noise along time: even the best linear filter reaches "
            f"only skill {learnable:.2f}.\n"
            "  look at: are they samples from the encoder's posterior instead of its means? how "
            "many directions are kept (latents.keep)? is the codec trained (`encode --check`)?"
        )
    else:
        checks = (
            f"these latents can be learned: a linear filter reaches skill {learnable:.2f}.\n"
            "  look at: training.learning_rate (try a tenth, and ten times), the "
            "gradient_norm curve, network.channels, and whether files are silent or only noise"
        )
    return (
        f"no skill after {step} steps: loss {values['loss']:.4f}; knowing only the variance of "
        f"each channel gives {values['baseline']:.4f}.\n  {checks}\n"
        "  `latentdiff diagnose training` looks for the cause"
    )


def running(values: Mapping[str, float]) -> str:
    """Status for the progress bar: loss, speed, and whether training waits for data."""
    audio_seconds = values.get("audio_seconds_per_second")
    parts = [short(values), f"{values['windows_per_second']:.0f} windows/s"]
    if audio_seconds is not None:
        parts.append(f"{audio_seconds:.0f} s of audio/s")
    if values["data_wait"] > STARVING:
        parts.append(f"waiting for data {values['data_wait']:.0%}")
    return ", ".join(parts)


def overfitting(step: int, best_step: int | None, last: Validation, best: Validation) -> str:
    """Warning that the held-out loss has been rising since its best."""
    training = ""
    if best.training is not None and last.training is not None:
        training = f", while the training loss fell from {best.training:.4f} to "
        training += f"{last.training:.4f}"
    return (
        f"overfitting: the held-out loss has risen from {best.loss:.4f} at step {best_step} to "
        f"{last.loss:.4f} at step {step}{training}: the model is memorising its training files. "
        "The best weights are kept. More recordings or a smaller network would help "
        "(training.patience stops such a training early)"
    )


def early(step: int, best_step: int | None, patience: int) -> str:
    """Why training ended before its budget did."""
    return (
        f"stopped early at step {step}: no better held-out loss in {patience} validations since "
        f"step {best_step}; set training.patience=null to train on"
    )
