"""The table of `evaluate`: every number with what a good and a bad one is."""

from __future__ import annotations

from typing import Any

from latentdiff.evaluation import compare
from latentdiff.training import verdict

FEW = 16
"""Clips of a set below which chance decides much of a score."""


def table(results: dict[str, Any]) -> str:
    """The results of an evaluation (as its JSON holds them) as text."""
    parts = [
        _head(results),
        _held_out(results["held_out"]),
        _sets(results),
        _samples(results),
        _steps(results["steps"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: dict[str, Any]) -> list[str]:
    return [
        f"{r['checkpoint']}, step {r['step']}",
        f"{r['samples']} samples of {r['seconds']:.1f} s (trained on {r['window_seconds']:.1f} s "
        f"at a time), {r['calls']} network calls each; beside {r['clips']} real clips a set of "
        f"{r['clip_seconds']:.1f} s",
    ]


def _held_out(r: dict[str, Any] | None) -> list[str]:
    if r is None:
        return ["held-out files: none, so skill was not measured"]
    lines = [
        f"on {r['windows']} held-out windows",
        f"  skill {r['skill']:.3f}   (0: knows only how strong each direction is; 1: knows all; "
        f"{_skill(r['wiener'], r['variance']):.2f}: the best filter) - {verdict.skill(r['skill'])}",
        f"  on training windows {r['training_skill']:.3f}   (the same: it knows the kind of sound; "
        "far above: it knows these recordings by heart)",
        "  log-SNR     loss  variance   Wiener     zero   skill   (loss between 0 and variance)",
    ]
    rows = zip(r["logsnr"], r["losses"], r["variance"], r["wiener"], r["zero"], strict=True)
    for level, loss, variance, wiener, zero in rows:
        share = 1 - loss / variance
        lines.append(
            f"  {level:+7.1f} {loss:8.4f}  {variance:8.4f} {wiener:8.4f} {zero:8.4f}   {share:5.2f}"
        )
    gain = r["conditioning_gain"]
    if gain is not None:
        lines.append(
            f"  conditioning gain {gain:.2f}   (0: the condition is ignored; 1: wrong ones double "
            f"the loss) - {verdict.conditioning(gain)}"
        )
    return lines


def _skill(losses: list[float], baselines: list[float]) -> float:
    return 1 - sum(losses) / sum(baselines)


def _sets(r: dict[str, Any]) -> list[str]:
    """One column of score and distances for each kind of features."""
    kinds = {"latents": r["latent"]}
    if "mel" in r:
        kinds["mel"] = r["mel"]
    kinds.update(r.get("embeddings", {}))
    lines = [
        "how near sets of clips are to the training clips (Frechet distance of short windows)",
        "  score 1: as near as real sound that was left out; 0: as far as white noise",
        "  " + " " * 27 + "".join(f"{kind:^32}" for kind in kinds),
        "  " + f"{'set':27}" + f"{'score':>8}{'distance':>11}{'to held-out':>13}" * len(kinds),
    ]
    names = {name: None for facts in kinds.values() for name in facts["sets"]}
    for name in names:
        cells = (_cell(facts["sets"].get(name)) for facts in kinds.values())
        lines.append(f"  {name:27}" + "".join(cells).rstrip())
    errors = {kind: facts["score_error"] for kind, facts in kinds.items()}
    known = [f"{error:.2f} ({kind})" for kind, error in errors.items() if error is not None]
    if known:
        lines.append(f"  standard error of the samples' scores: {', '.join(known)}; more --n, less")
    if r["clips"] < FEW:
        lines.append(
            f"  only {r['clips']} clips a set: the scores are rough; more sound tells more"
        )
    return lines + [line for kind, facts in kinds.items() for line in _doubts(kind, facts)]


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return f"{'-':>8}{'-':>11}{'-':>13}"
    score = "-" if row["score"] is None else f"{row['score']:.2f}"
    far = row["distance_to_held_out"]
    return f"{score:>8}{row['distance']:11.3f}" + ("-" if far is None else f"{far:.3f}").rjust(13)


def _doubts(kind: str, facts: dict[str, Any]) -> list[str]:
    """Why the scores of one kind may mislead."""
    sets = facts["sets"]
    if facts["ceiling"] <= facts["floor"]:
        return [
            f"  {kind}: noise is no farther than real sound, so there is no score: too few clips"
        ]
    lines = []
    held = sets.get(compare.HELD_OUT)
    if held and held["distance"] > (facts["floor"] + facts["ceiling"]) / 2:
        lines.append(
            f"  {kind}: the held-out files themselves are unlike the training files; samples that "
            "follow them will seem far off"
        )
    shuffled = sets[compare.SHUFFLED]["score"]
    if shuffled is not None and shuffled > 0.5:
        lines.append(f"  {kind}: shuffled frames score {shuffled:.2f}: this number tells little")
    return lines


def _samples(r: dict[str, Any]) -> list[str]:
    spread = r["spread"]["directions"]
    lines = [
        "the samples",
        f"  spread {min(spread):.2f} to {max(spread):.2f} by direction, median "
        f"{r['spread']['median']:.2f}   (1: as the training latents; below: too tame and quiet; "
        "above: too wild)",
    ]
    level = r.get("level")
    if level:
        ours, real = level["samples"], level["training"]
        lines += [
            f"  level {_level(ours)}; training clips, decoded: {_level(real)}; "
            f"difference {ours['median_db'] - real['median_db']:+.1f} dB   (0: as loud)",
            f"  silent: {ours['silent']} of {ours['clips']}; of training clips {real['silent']} "
            f"of {real['clips']}",
        ]
    near = r["neighbours"]
    if near:
        lines.append(
            f"  nearest training window ({near['seconds']:.1f} s): ratio {near['ratio']:.2f}, "
            f"samples {near['samples']:.2f} against held-out {near['held_out']:.2f}   (1 or more: "
            "as new as unheard recordings; far below 1: learned by heart)"
        )
    follows = r.get("condition")
    if follows:
        of = "held-out" if follows["held_out"] else "training"
        wrong = "-" if follows["wrong_db"] is None else f"{follows['wrong_db']:.1f} dB"
        lines.append(
            f"  distance to the {of} sound they follow {follows['right_db']:.1f} dB; the codec's "
            f"own {follows['codec_db']:.1f} dB (the best there is); to a wrong one {wrong} "
            "(no better than that: the condition is ignored)"
        )
    return lines


def _level(level: dict[str, Any]) -> str:
    return (
        f"{level['median_db']:.1f} dBFS ({level['quietest_db']:.1f} to {level['loudest_db']:.1f})"
    )


def _steps(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["sampler steps", "    steps  network calls  score (latents)  score (mel)"]
    for row in rows:
        mel = row.get("mel", {}).get("score")
        latent = row["latent"]["score"]
        lines.append(
            f"  {row['steps']:7d}  {row['calls']:13d}  {_number(latent):>15}  {_number(mel):>11}"
        )
    return lines


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
