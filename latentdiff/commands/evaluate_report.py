"""The text and the JSON file of `evaluate`: every number with what is good and what is bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from latentdiff.evaluation import sets
from latentdiff.evaluation.coherence import Horizon
from latentdiff.evaluation.scores import HELD_OUT_CLIPS, TOLD, FormScores, Interval
from latentdiff.model.evaluate.advice import advice
from latentdiff.model.evaluate.findings import findings
from latentdiff.model.evaluate.results import (
    ConditionFollowing,
    Copying,
    EvaluationResult,
    HeldOutSkill,
    Level,
    Levels,
    Spread,
    StepScore,
)
from latentdiff.training import verdict

FEW = 16
"""Training clips below which scores depend much on chance."""
OPTIONAL = ("sound", "level", "condition", "distilled")
"""Keys of the JSON file that are left out if not measured; other keys are null."""
DIGITS = 6
"""Significant digits of numbers in the JSON file."""


def to_json(result: EvaluationResult) -> dict[str, object]:
    """The numbers of an evaluation as `evaluation.json` holds them."""
    values = asdict(replace(result, examples={}))
    del values["examples"]
    return {
        key: _rounded(value)
        for key, value in values.items()
        if value is not None or key not in OPTIONAL
    }


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def table(result: EvaluationResult) -> str:
    """An evaluation as text."""
    parts = [
        _header(result),
        _held_out(result.held_out, result.distilled),
        _forms(result),
        _time(result),
        _samples(result),
        _steps(result.steps),
        _section("what is wrong with the samples", findings(result)),
        _section("what may help", advice(result)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _header(r: EvaluationResult) -> list[str]:
    calls = f"{r.calls} network call" + ("" if r.calls == 1 else "s")
    return [
        f"{r.checkpoint}, step {r.step}",
        f"{r.samples} samples of {r.seconds:.1f} s, {calls} each (training windows: "
        f"{r.window_seconds:.1f} s)",
        f"compared with {r.clips} training clips of {r.clip_seconds:.1f} s",
    ]


def _held_out(r: HeldOutSkill | None, distilled: str | None) -> list[str]:
    if distilled is not None:
        return [f"{distilled}: it has no skill by noise level"]
    if r is None:
        return ["no file is held out, so skill was not measured"]
    wiener = 1 - sum(r.wiener) / sum(r.variance)
    lines = [
        f"held-out files, {r.windows} windows",
        f"  skill {r.skill:.3f}   (0: knows only the level of each direction; 1: knows everything; "
        f"{wiener:.2f}: the best linear filter) - {verdict.skill(r.skill)}",
        f"  skill on training files {r.training_skill:.3f}   (similar: what it learned is general; "
        "far higher: it has memorised recordings)",
        "  loss by noise level, clean to noisy, beside that of a model that knows only variances, "
        "of the best linear filter (Wiener), and of predicting zero",
        "  log-SNR     loss  variance   Wiener     zero   skill",
    ]
    rows = zip(r.logsnr, r.losses, r.variance, r.wiener, r.zero, strict=True)
    for level, loss, variance, filtered, zero in rows:
        lines.append(
            f"  {level:+7.1f} {loss:8.4f}  {variance:8.4f} {filtered:8.4f} {zero:8.4f}   "
            f"{1 - loss / variance:5.2f}"
        )
    gain = r.conditioning_gain
    if gain is not None:
        lines.append(
            f"  conditioning gain {gain:.2f}   (0: conditions are ignored; 1: wrong ones double "
            f"the loss) - {verdict.conditioning(gain)}"
        )
    return lines


def _forms(r: EvaluationResult) -> list[str]:
    """A table for each kind of features."""
    lines = [
        f"samples, real clips and fakes made of them, {r.clip_seconds:.1f} s each, clip by clip",
        "  score 1: as near to the training clips as real clips; 0: as far as white noise; it may "
        "be lower",
        "  AUC of a classifier that tells the set from training clips: 0.5 it cannot, 1.0 always",
        "  variety 1: as different from each other as training clips; 0: each occurs twice",
        "  few: there are too few clips to say",
    ]
    for kind, form in r.kinds.items():
        lines += ["", *_form(kind, form)]
    if r.clips < FEW:
        lines.append(
            f"  with only {r.clips} training clips the scores are rough; more recordings make them "
            "more exact"
        )
    return lines


def _form(kind: str, form: FormScores) -> list[str]:
    head = f"  {kind:26}{'score':>7}{'AUC':>6}  "
    lines = [
        head + "".join(f"{view:>10}" for view in form.views) + "  told by        variety  Frechet"
    ]
    for name, score in form.joint.scores.items():
        views = "".join(f"{_value(line.scores[name]):>10}" for line in form.views.values())
        far = form.frechet.get(name)
        lines.append(
            f"  {name:26}{_value(score):>7}{_value(form.joint.separation[name]):>6}  {views}  "
            f"{_told(form.told_by(name)):15}{_value(form.variety[name]):>7}"
            + ("" if far is None else f"{far:9.4g}")
        )
    ours, least = form.joint.scores[sets.SAMPLES], form.joint.smallest_difference(sets.SAMPLES)
    if ours.low is not None and ours.high is not None and least is not None:
        lines.append(
            f"  {kind}: the samples' score is {ours.low:.2f} to {ours.high:.2f} (95 %); scores of "
            f"two models that differ by less than {least:.2f} may be equal"
        )
    lines.append(f"  1 stands for {form.joint.one}{_why(form)}")
    if ours.reason is not None:
        lines.append(f"  no score: {ours.reason}")
    return lines


def _why(form: FormScores) -> str:
    if form.joint.one == HELD_OUT_CLIPS:
        return ""
    if sets.HELD_OUT not in form.joint.scores:
        return ": no held-out file is as long as a clip"
    return ": held-out clips are too few, or too unlike the training files"


def _value(interval: Interval) -> str:
    return "few" if interval.value is None else f"{interval.value:.2f}"


def _told(by: tuple[str, float] | None) -> str:
    return "-" if by is None or by[1] <= TOLD else f"{by[0]} {by[1]:.2f}"


def _time(r: EvaluationResult) -> list[str]:
    """How long each set stays one piece and keeps its beat, and how far it moves."""
    lines = [
        "over time",
        "  piece, beat: seconds over which clips stay one piece, and keep time, as real ones do",
        "  (they are as coherent as real clips that were cut and exchanged that often)",
        "  within, between: how far clips move, and how far they are from each other, relative to "
        "training clips",
        f"  {'set':26}{'piece':>17}{'beat':>17}{'within':>9}{'between':>9}",
    ]
    for name, found in r.coherence.items():
        moved = r.wandering.get(name)
        ratios = "" if moved is None else f"{moved.within.ratio:9.2f}{moved.between.ratio:9.2f}"
        lines.append(f"  {name:26}{_lasts(found.continuity):>17}{_lasts(found.beat):>17}{ratios}")
    return lines


def _lasts(horizon: Horizon | None) -> str:
    if horizon is None:
        return "-"
    return f"{horizon.seconds:.1f} ({horizon.low:.1f}-{horizon.high:.1f})"


def _samples(r: EvaluationResult) -> list[str]:
    lines = ["the samples", *_spread(r.spread)]
    if r.level:
        lines += _levels(r.level)
    lines.append(_copying(r.copying))
    if r.condition:
        lines.append(_following(r.condition))
    return lines


def _spread(r: Spread) -> list[str]:
    lines = [
        f"  spread {min(r.directions):.2f} to {max(r.directions):.2f} by latent direction, median "
        f"{r.median:.2f}   (1: like the training latents; lower: quieter and more alike; higher: "
        "louder and more extreme)",
    ]
    if r.labels:
        medians = (f"{label} {each.median:.2f}" for label, each in r.labels.items())
        lines.append(f"  median spread by label: {', '.join(medians)}")
    return lines


def _levels(r: Levels) -> list[str]:
    ours, real = r.samples, r.training
    return [
        f"  level {_level(ours)}; training clips, decoded: {_level(real)}; difference "
        f"{ours.median_db - real.median_db:+.1f} dB   (0: equally loud)",
        f"  silent: {ours.silent} of {ours.clips} samples; {real.silent} of {real.clips} training "
        "clips",
    ]


def _level(level: Level) -> str:
    return f"{level.median_db:.1f} dBFS ({level.quietest_db:.1f} to {level.loudest_db:.1f})"


def _copying(r: Copying) -> str:
    chance = "unknown: too few real clips" if r.p is None else f"{r.p:.2g}"
    return (
        f"  copies of training recordings ({r.seconds:.1f} s): {r.share:.0%} of the samples, p "
        f"{chance} (the chance of real clips to come this close to other recordings); ratio "
        f"{r.ratio:.2f} (1: as new as real clips; near 0: copies)"
    )


def _following(r: ConditionFollowing) -> str:
    kind = "held-out" if r.held_out else "training"
    wrong = "-" if r.wrong_db is None else f"{r.wrong_db:.1f} dB"
    return (
        f"  distance to the {kind} recordings they follow {r.right_db:.1f} dB; of the codec alone "
        f"{r.codec_db:.1f} dB (the best possible); to wrong recordings {wrong} (if that is no "
        "more, conditions are ignored)"
    )


def _steps(rows: Sequence[StepScore]) -> list[str]:
    if not rows:
        return []
    lines = ["sampler steps", "    steps  network calls  score (latents)  score (sound)"]
    for row in rows:
        sound = "-" if row.sound is None else _value(row.sound)
        lines.append(f"  {row.steps:7d}  {row.calls:13d}  {_value(row.latents):>15}  {sound:>13}")
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []
