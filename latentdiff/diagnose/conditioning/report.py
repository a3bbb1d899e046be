"""The text of `diagnose conditioning`."""

from __future__ import annotations

from latentdiff.conditions.registry import KINDS
from latentdiff.diagnose.conditioning.results import Difference, KindResult, Results, Strength
from latentdiff.diagnose.followed import Verdict
from latentdiff.evaluation.difference import UNRELATED
from latentdiff.evaluation.permutation import CERTAIN, SIGNIFICANT
from latentdiff.training import verdict

MOVED = 0.3
"""Difference of samples above which a condition changes them."""

CHANGES = {
    "other condition": "the same noise, another condition",
    **{f"other {kind}": f"the same noise, another {kind}" for kind in KINDS},
    "other noise": "the same condition, other noise",
    "both other": "another condition and other noise",
}
VERDICTS: dict[Verdict, str] = {
    "followed": "the loss alone tells the right condition from wrong ones",
    "weak": "it has an effect, but only over many windows together",
    "ignored": "the model does as well with another clip's. Check that latents and conditions "
    "belong together, or train longer",
    "not judged": "these files are too few to tell; add recordings",
    "misaligned": "it belongs to these latents, but comes too early or too late, and the model "
    "has learned it so. Encode again, and train again",
}
NEARNESS = {"right": "with the clips' own conditions", "other condition": "with other conditions"}
WRONG = {
    **{f"other {kind}": f"with another {kind}" for kind in KINDS},
    "none": "without any condition",
}


def text(results: Results) -> str:
    """Tables and verdict."""
    parts = (
        _head(results),
        _losses(results),
        _changes(results),
        _nearness(results),
        _guidance(results),
        _verdict(results),
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _files(results: Results) -> str:
    return "held-out" if results.held_out else "training"


def _head(r: Results) -> list[str]:
    return [
        f"{r.checkpoint}, step {r.step}, follows {', '.join(r.kinds)}; {r.clips} clips of "
        f"{r.clip_seconds:.1f} s from {_files(r)} files"
    ]


def _losses(r: Results) -> list[str]:
    losses = r.losses
    lines = [
        f"loss on {losses.windows} {_files(r)} windows (gain: how much wrong conditions raise it; "
        "0: the condition is ignored)",
        f"  {'with their own conditions':36}{losses.right:8.4f}   (knowing only variances: "
        f"{losses.baseline:.4f})",
        f"  {'with conditions exchanged':36}{losses.exchanged:8.4f}   gain {losses.gain:.2f}",
    ]
    for name, gain in losses.gains.items():
        loss = (1 + gain) * losses.right
        lines.append(f"  {WRONG[name]:36}{loss:8.4f}   gain {gain:.2f}")
    return lines


def _changes(r: Results) -> list[str]:
    return [
        f"how far a sample changes (0: not at all; {UNRELATED:.2f}: completely, as between two "
        "white noises)",
        f"  {'':36}{'latents':>8}{'sound':>11}",
        *(f"  {CHANGES[name]:36}{_cells(change)}" for name, change in r.changes.items()),
    ]


def _cells(difference: Difference) -> str:
    sound = "" if difference.sound_db is None else f"{difference.sound_db:8.2f} dB"
    return f"{difference.latents:8.2f}{sound}"


def _nearness(r: Results) -> list[str]:
    if not r.to_followed:
        return []
    rows = r.to_followed.items()
    return [
        "how far samples are from the real clips",
        *(f"  {NEARNESS[name]:36}{_cells(difference)}" for name, difference in rows),
    ]


def _guidance(r: Results) -> list[str]:
    if not r.guidance:
        return []
    lines = [
        "guidance (0: the condition is ignored; 1: off) and the strength of samples (spread 1: as "
        "strong as the training latents)",
        f"  {'scale':>7}{'from unconditional':>20}{'from the clips':>24}{'spread':>9}{'level':>13}",
    ]
    for row in r.guidance:
        near = "-" if row.to_followed is None else f"{row.to_followed:.2f}"
        lines.append(f"  {row.scale:7g}{row.from_free:20.2f}{near:>24}{_strength(row)}")
    return [*lines, f"  {'the clips themselves':51}{_strength(r.followed)}"]


def _strength(of: Strength) -> str:
    level = "-" if of.level_db is None else f"{of.level_db:.1f} dBFS"
    return f"{of.spread:9.2f}{level:>13}"


def _verdict(r: Results) -> list[str]:
    lines = [line for kind, found in r.judged.items() for line in _kind(kind, found)]
    by_condition = r.changes["other condition"].latents
    ignored = all(found.verdict == "ignored" for found in r.judged.values())
    if ignored and by_condition > MOVED:
        lines.append(_wrongly_learned(r))
    return lines


def _kind(kind: str, found: KindResult) -> list[str]:
    """The verdict on one kind, and what it rests on."""
    lines = [f"{kind}: {found.verdict}; {VERDICTS[found.verdict]}"]
    if found.exchange is not None:
        test = found.exchange
        lines.append(
            f"  gain {test.gain:.3f}; conditions without effect rank as high with p={test.p:.2g} "
            f"(up to {CERTAIN:g}: it has an effect; above {SIGNIFICANT:g}: none); the right one "
            f"fits best in {test.identified:.0%} of {test.groups} cases (by chance "
            f"{test.chance:.0%})"
        )
    if found.fit is not None:
        pairs, lags = found.fit.pairing, found.fit.alignment
        lines.append(
            f"  it predicts {pairs.stored:.1%} of the latents' variance by linear regression, that "
            f"of other files {pairs.best_wrong:.1%}; most, {max(lags.explained):.1%}, when moved "
            f"by {-lags.best:+.2f} s (aligned: within {lags.tolerance:.2f} s)"
        )
    return lines


def _wrongly_learned(r: Results) -> str:
    """A warning that samples follow a condition that does not help to predict the latents."""
    free = r.losses.gains.get("none", 0.0)
    better = (
        f", and without any the loss is {-free:.0%} lower" if free < -verdict.LITTLE_GAIN else ""
    )
    return (
        f"Yet another condition does change a sample{better}: the model has learned to use the "
        "condition, but not as it belongs to these latents. Were latents and conditions paired "
        "wrongly, or the training files memorised?"
    )
