"""The text and the JSON file of `evaluate`: every number with what is good and what is bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from latentdiff.commands.evaluate_advice import advice
from latentdiff.evaluation import compare
from latentdiff.evaluation.compare import Comparison, SetScore
from latentdiff.model.evaluate.results import (
    ConditionFollowing,
    EvaluationResult,
    HeldOutSkill,
    Level,
    Levels,
    Neighbours,
    Spread,
    StepScore,
)
from latentdiff.training import verdict

FEW = 16
"""Clips per set below which scores depend much on chance."""
OPTIONAL = ("mel", "embeddings", "level", "condition")
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
        _held_out(result.held_out),
        _sets(result),
        _samples(result),
        _steps(result.steps),
        _advice(result),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _header(r: EvaluationResult) -> list[str]:
    calls = f"{r.calls} network call" + ("" if r.calls == 1 else "s")
    return [
        f"{r.checkpoint}, step {r.step}",
        f"{r.samples} samples of {r.seconds:.1f} s, {calls} each (training windows: "
        f"{r.window_seconds:.1f} s)",
        f"compared with {r.clips} real clips of {r.clip_seconds:.1f} s per set",
    ]


def _held_out(r: HeldOutSkill | None) -> list[str]:
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


def _sets(r: EvaluationResult) -> list[str]:
    """A row for each set of clips; columns of score and distances for each kind of features."""
    kinds = r.comparisons
    lines = [
        "how close sets of clips are to the training clips (Frechet distance of short windows)",
        "  score 1: as close as other real sound; 0: as far away as white noise",
        "  " + " " * 27 + "".join(f"{kind:^32}" for kind in kinds),
        "  " + f"{'set':27}" + f"{'score':>8}{'distance':>11}{'to held-out':>13}" * len(kinds),
    ]
    names = {name: None for comparison in kinds.values() for name in comparison.sets}
    for name in names:
        cells = (_cell(comparison.sets.get(name)) for comparison in kinds.values())
        lines.append(f"  {name:27}" + "".join(cells).rstrip())
    errors = {kind: comparison.score_error for kind, comparison in kinds.items()}
    known = [f"{error:.2f} ({kind})" for kind, error in errors.items() if error is not None]
    if known:
        lines.append(
            f"  standard error of the samples' scores: {', '.join(known)}; a larger --n lowers it"
        )
    if r.clips < FEW:
        lines.append(
            f"  with only {r.clips} clips per set the scores are rough; more recordings make them "
            "more exact"
        )
    return lines + [line for kind, one in kinds.items() for line in _caveats(kind, one)]


def _cell(row: SetScore | None) -> str:
    if row is None:
        return f"{'-':>8}{'-':>11}{'-':>13}"
    score, far = _number(row.score, 2), _number(row.distance_to_held_out)
    return f"{score:>8}{row.distance:11.3f}{far:>13}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _caveats(kind: str, comparison: Comparison) -> list[str]:
    """Why the scores of one kind may mislead."""
    sets = comparison.sets
    if not comparison.usable:
        return [
            f"  {kind}: no scores, because white noise is no farther away than real sound; there "
            "are too few clips"
        ]
    lines = []
    held_out = sets.get(compare.HELD_OUT)
    if held_out and held_out.distance > (comparison.floor + comparison.ceiling) / 2:
        lines.append(
            f"  {kind}: the held-out files themselves differ from the training files, so samples "
            "that follow them will seem far away"
        )
    shuffled = sets[compare.SHUFFLED].score
    if shuffled is not None and shuffled > 0.5:
        lines.append(
            f"  {kind}: even clips with shuffled frames score {shuffled:.2f}, so this score says "
            "little about how sound moves in time"
        )
    return lines


def _samples(r: EvaluationResult) -> list[str]:
    lines = ["the samples", *_spread(r.spread)]
    if r.level:
        lines += _levels(r.level)
    if r.neighbours:
        lines.append(_neighbours(r.neighbours))
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


def _neighbours(r: Neighbours) -> str:
    return (
        f"  distance to the nearest training window ({r.seconds:.1f} s): {r.samples:.2f}, of "
        f"held-out clips {r.held_out:.2f}, ratio {r.ratio:.2f}   (about 1: as new as held-out "
        "recordings; far below 1: copied from training files)"
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
    lines = ["sampler steps", "    steps  network calls  score (latents)  score (mel)"]
    for row in rows:
        latent, mel = _number(row.latent.score), _number(row.mel.score if row.mel else None)
        lines.append(f"  {row.steps:7d}  {row.calls:13d}  {latent:>15}  {mel:>11}")
    return lines


def _advice(r: EvaluationResult) -> list[str]:
    lines = advice(r)
    return ["what may help", *(f"  {line}" for line in lines)] if lines else []
