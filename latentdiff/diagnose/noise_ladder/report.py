"""The text of `diagnose noise-ladder`."""

from __future__ import annotations

import math
from typing import Any

from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.evaluation.tolerance import RUNGS, Criterion

NOTHING: Criterion = "nothing is heard of latents"
MEANINGS: dict[Criterion, str] = {
    "half-way to noise": "half of what white noise in their place changes",
    "the codec's own error": "as much as the codec itself changes recordings",
}
FAINT_DB = 12.0
"""A sound so much weaker than that of encodings is remarked on."""


def text(r: dict[str, Any]) -> str:
    """The results (as the JSON file holds them) as table and verdict."""
    parts = [_head(r), _encoded(r), _rungs(r), _left_out(r), _others(r), _verdict(r)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: dict[str, Any]) -> list[str]:
    of = "held-out" if r["held_out"] else "training"
    return [
        f"{r['clips']} clips of {r['clip_seconds']:.1f} s of {of} files, {r['kept']} of "
        f"{r['dimensions']} directions kept; levels are medians, distances means over the clips",
    ]


def _line(label: str, level: float, distance: float | None = None, note: str = "") -> str:
    far = "" if distance is None else f"{distance:8.2f} dB"
    return f"  {label:42}{level:7.1f} dBFS{far:>13}  {note}".rstrip()


def _encoded(r: dict[str, Any]) -> list[str]:
    whole, codec = r["all_directions"], r["codec_db"]
    of_codec = "" if codec is None else f"{codec:.2f} dB to the recordings: the codec's own error"
    of_kept = "" if codec is None else f"{r['kept_codec_db']:.2f} dB to the recordings"
    heading = f"{'':44}{'level':>12}   distance to the sound without noise"
    lines = [
        heading,
        _line("encodings, all directions", whole["level_db"], whole["distance_db"], of_codec),
        _line("kept directions: the sound without noise", r["unnoised_db"], 0.0, of_kept),
    ]
    if r["recordings_db"] is not None:
        lines.insert(1, _line("recordings", r["recordings_db"]))
    return lines


def _rungs(r: dict[str, Any]) -> list[str]:
    lines = ["k x noise along the kept directions, in deviations of the latents"]
    for rung in r["rungs"]:
        label = f"k {rung['k']:<5g} log-SNR {-2 * math.log(rung['k']) + 0.0:+5.1f}"
        above = rung["distance_db"] > r["limit_db"] and r["criterion"] != NOTHING
        broken = "broken" if above else ""
        lines.append(_line(label, rung["level_db"], rung["distance_db"], broken))
    return lines


def _left_out(r: dict[str, Any]) -> list[str]:
    if not r["left_out_rungs"]:
        return []
    lines = ["k x noise along the left-out directions, in unit deviations"]
    for rung in r["left_out_rungs"]:
        note = "what an exported RAVE puts there" if rung["k"] == 1 else ""
        lines.append(_line(f"k {rung['k']:g}", rung["level_db"], rung["distance_db"], note))
    return lines


def _others(r: dict[str, Any]) -> list[str]:
    labels = {
        "white noise": "white noise as strong as the latents",
        "unit noise": f"unit noise along all {r['dimensions']} dimensions",
        "mean": "the mean of the latents",
        "zeros": "zeros, in the codec's own units",
        "frames shuffled": "the frames of all clips, shuffled",
        "mean of all": f"mean of the {r['clips']} encodings",
        "half-way": "half-way between two encodings",
    }
    lines = ["latents that encode nothing"]
    for name, row in r["others"].items():
        lines.append(_line(labels[name], row["level_db"], row["distance_db"], _note(row, r)))
    return lines


def _note(row: dict[str, Any], r: dict[str, Any]) -> str:
    if "to_mix_db" in row:
        return f"{row['to_mix_db']:.2f} dB to the mixed sound"
    faint = r["unnoised_db"] - row["level_db"]
    silent = "silent, " if row["level_db"] < SILENT_DB else ""
    return f"{silent}{faint:.0f} dB weaker than encodings" if faint > FAINT_DB else ""


def _verdict(r: dict[str, Any]) -> list[str]:
    noise = r["others"]["white noise"]["distance_db"]
    if r["criterion"] == NOTHING:
        return [
            f"white noise in place of the latents changes the sound by {noise:.2f} dB only: this "
            "decoder makes the same of any latents. Train the codec before anything else."
        ]
    meaning = MEANINGS[r["criterion"]]
    if r["tolerance_std"] is None:
        return [
            f"the decoder bears noise of more than {RUNGS[-1]:g} deviations of the latents: the "
            f"sound never changes by {r['limit_db']:.2f} dB, {meaning}"
        ]
    return [
        f"the decoder bears noise of {r['tolerance_std']:.2f} deviations of the latents, log-SNR "
        f"{r['tolerance_logsnr']:+.1f}: there the sound changes by {r['limit_db']:.2f} dB, "
        f"{meaning}.",
        "What a diffusion model leaves of its noise must stay below that.",
        *_of_left_out(r, noise),
    ]


def _of_left_out(r: dict[str, Any], noise: float) -> list[str]:
    return [
        f"The {r['dimensions'] - r['kept']} directions left out change the sound by "
        f"{r['all_directions']['distance_db']:.2f} dB; unit noise there by "
        f"{rung['distance_db']:.2f} dB, {rung['distance_db'] / noise:.0%} of what white noise in "
        "place of the kept ones does."
        for rung in r["left_out_rungs"]
        if rung["k"] == 1
    ]
