"""What the numbers mean, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from latentdiff.training.validation import Validation

NO_SKILL = 0.02
"""Below this a model is called one that has learned nothing."""
LEARNABLE = 0.05
"""Skill of the spectrum-only denoiser from which latents are said to have structure."""
STARVING = 0.05
"""Share of the time spent on waiting for data from which it is remarked on."""
LITTLE_GAIN = 0.05
"""Conditioning gain below which conditions are said to be ignored."""
MUCH_GAIN = 0.5
"""And from which on they are said to be followed."""

Grade = Literal["ignored", "weak", "followed"]
GRADES: dict[Grade, str] = {
    "ignored": "the condition is ignored: wrong conditions serve as well as the right ones. "
    "Look at how latents and conditions are paired, or train longer",
    "weak": "the condition is used a little",
    "followed": "the condition is followed",
}


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def short(values: Mapping[str, float]) -> str:
    """Loss, baseline and skill."""
    loss, baseline, skill = values["loss"], values["baseline"], values["skill"]
    return f"loss {loss:.3f} baseline {baseline:.3f} skill {skill:.2f}"


def validation(step: int, result: Validation, training: Mapping[str, float], kept: bool) -> str:
    """One line for each validation."""
    gain = result.conditioning_gain
    seen = training["skill"] if result.training_skill is None else result.training_skill
    parts = [
        f"step {step}: validation loss {result.loss:.4f}, baseline {result.baseline:.4f}, "
        f"skill {result.skill:.3f} (training {seen:.3f})"
    ]
    if gain is not None:
        parts.append(f"conditioning gain {gain:.2f}")
    if not kept:
        parts.append("risen, so not kept")
    return ", ".join(parts)


def skill(value: float) -> str:
    """A skill in words."""
    if value < NO_SKILL:
        return "nothing was learned: a model that knows only each channel's variance does as well"
    if value < 0.2:
        return "little was learned"
    if value < 0.5:
        return "learned something; more steps or a larger network may give more"
    return "learned"


def grade(gain: float) -> Grade:
    """A conditioning gain in a word."""
    if gain < LITTLE_GAIN:
        return "ignored"
    return "weak" if gain < MUCH_GAIN else "followed"


def conditioning(gain: float) -> str:
    """A conditioning gain in words."""
    return GRADES[grade(gain)]


def no_skill(step: int, values: Mapping[str, float], learnable: float) -> str:
    """Said once, early, with where to look; `learnable`: skill of the spectrum-only denoiser."""
    if learnable < LEARNABLE:
        where = (
            "these latents look like white noise along time: a filter that knows their spectrum "
            f"reaches skill {learnable:.2f} only.\n"
            "  look at: are they samples of the posterior instead of its means? how many "
            "directions are kept (latents.keep)? is the codec trained (`encode --check`)?"
        )
    else:
        where = (
            f"yet these latents can be learned: a mere filter that knows their spectrum reaches "
            f"skill {learnable:.2f}.\n"
            "  look at: training.learning_rate (try a tenth, and ten times), the "
            "gradient_norm curve, network.channels, and whether files hold silence or noise only"
        )
    return (
        f"no skill after {step} steps: loss {values['loss']:.4f}, and a model that knows nothing "
        f"but the variance of each channel scores {values['baseline']:.4f}.\n  {where}\n"
        "  `latentdiff diagnose training` looks for the cause"
    )


def running(values: Mapping[str, float]) -> str:
    """For the progress bar: what is learned, how fast it goes, whether the data keeps up."""
    sound = values.get("audio_seconds_per_second")
    parts = [short(values), f"{values['windows_per_second']:.0f} windows/s"]
    if sound is not None:
        parts.append(f"{sound:.0f} s of audio/s")
    if values["data_wait"] > STARVING:
        parts.append(f"waits for data {values['data_wait']:.0%}")
    return ", ".join(parts)


def overfitting(step: int, best_step: int | None, last: Validation, best: Validation) -> str:
    """Said while training, where the held-out loss has risen for a while since its best."""
    training = ""
    if best.training is not None and last.training is not None:
        training = f", while that of training files fell from {best.training:.4f} to "
        training += f"{last.training:.4f}"
    return (
        f"overfitting: the held-out loss has risen from {best.loss:.4f} at step {best_step} to "
        f"{last.loss:.4f} at step {step}{training}: the model has begun to learn its files by "
        "heart. The best weights are kept; more recordings or a smaller network would go further "
        "(training.patience ends such a training early)"
    )


def early(step: int, best_step: int | None, patience: int) -> str:
    """Said where training ends before its budget does."""
    return (
        f"stopped early at step {step}: no better held-out loss in {patience} validations since "
        f"step {best_step}; training.patience=null trains on"
    )
