"""The text of `diagnose conditioning`."""

from __future__ import annotations

from typing import Any

from latentdiff.evaluation.difference import UNRELATED
from latentdiff.training import verdict

MOVED = 0.3
"""Difference of outputs from which a condition is said to change them."""

LABELS = {
    "other condition": "the same noise, another condition",
    "other spectrogram": "the same noise, another spectrogram",
    "other label": "the same noise, another label",
    "other noise": "the same condition, other noise",
    "both other": "another condition and other noise",
}
GAINS = {
    "other spectrogram": "with the spectrograms of others",
    "other label": "with another label",
    "none": "without any condition",
}


def text(r: dict[str, Any]) -> str:
    """The results (as the JSON file holds them) as table and verdict."""
    parts = [_head(r), _losses(r), _changes(r), _followed(r), _guidance(r), _verdict(r)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: dict[str, Any]) -> list[str]:
    of = "held-out" if r["held_out"] else "training"
    return [
        f"{r['checkpoint']}, step {r['step']}, follows {WHAT[r['kind']]}; {r['clips']} clips of "
        f"{r['clip_seconds']:.1f} s of {of} files"
    ]


WHAT = {"mel": "spectrograms", "label": "labels", "both": "spectrograms and labels"}


def _losses(r: dict[str, Any]) -> list[str]:
    found = r["losses"]
    of = "held-out" if r["held_out"] else "training"
    lines = [
        f"loss on {found['windows']} {of} windows (gain: by which share wrong conditions raise it; "
        "0: they serve as well)",
        f"  {'with their own conditions':36}{found['right']:8.4f}   (knows variances only: "
        f"{found['baseline']:.4f})",
        f"  {'with conditions exchanged':36}{found['exchanged']:8.4f}   gain {found['gain']:.2f}",
    ]
    for name, gain in found["gains"].items():
        loss = (1 + gain) * found["right"]
        lines.append(f"  {GAINS[name]:36}{loss:8.4f}   gain {gain:.2f}")
    return lines


def _changes(r: dict[str, Any]) -> list[str]:
    lines = [
        f"what changes a sample (0: nothing; {UNRELATED:.2f}: all, as between white noises)",
        f"  {'':36}{'latents':>8}{'sound':>11}",
    ]
    rows = r["changes"].items()
    return lines + [f"  {LABELS[name]:36}{_cells(row)}" for name, row in rows]


def _cells(row: dict[str, Any]) -> str:
    heard = "" if row["sound_db"] is None else f"{row['sound_db']:8.2f} dB"
    return f"{row['latents']:8.2f}{heard}"


def _followed(r: dict[str, Any]) -> list[str]:
    if not r["to_followed"]:
        return []
    labels = {"right": "that follow them", "other condition": "that follow another"}
    lines = ["how unlike the clips are samples"]
    return lines + [f"  {labels[name]:36}{_cells(row)}" for name, row in r["to_followed"].items()]


def _guidance(r: dict[str, Any]) -> list[str]:
    if not r["guidance"]:
        return []
    lines = [
        "guidance (0: the condition is ignored; 1: none), and how strong samples get (1: as the "
        "training latents)",
        f"  {'scale':>7}{'from free samples':>20}{'from what is followed':>24}{'spread':>9}"
        f"{'level':>13}",
    ]
    for row in r["guidance"]:
        near = "-" if row["to_followed"] is None else f"{row['to_followed']:.2f}"
        lines.append(f"  {row['scale']:7g}{row['from_free']:20.2f}{near:>24}{_strength(row)}")
    return [*lines, f"  {'the clips themselves':51}{_strength(r['followed'])}"]


def _strength(row: dict[str, Any]) -> str:
    level = "-" if row["level_db"] is None else f"{row['level_db']:.1f} dBFS"
    return f"{row['spread']:9.2f}{level:>13}"


def _verdict(r: dict[str, Any]) -> list[str]:
    gain, changes = r["losses"]["judged"], r["changes"]
    told, noise = changes["other condition"]["latents"], changes["other noise"]["latents"]
    lines = [
        f"{verdict.conditioning(gain)} (gain {gain:.2f}; another condition changes a sample by "
        f"{told:.2f}, other noise by {noise:.2f})"
    ]
    if r["verdict"] == "ignored" and told > MOVED:
        free = r["losses"]["gains"].get("none", 0.0)
        worse = (
            f", and without any the loss is {-free:.0%} lower"
            if free < -verdict.LITTLE_GAIN
            else ""
        )
        lines.append(
            f"Yet another condition does change a sample{worse}: what it says was learned, but not "
            "as it goes with these latents. Were they paired wrongly, or learned by heart?"
        )
    if r["kind"] == "both":
        parts = ("other spectrogram", "other label")
        grades = (
            f"{name.removeprefix('other ')}: {verdict.grade(r['losses']['gains'][name])}"
            for name in parts
        )
        lines.append("each by itself: " + ", ".join(grades))
    return lines
