"""The text of `diagnose noise-ladder`."""

from __future__ import annotations

import math

from latentdiff.diagnose.noise_ladder.results import NoiseLadderResults, OtherLatents
from latentdiff.evaluation.sound import SILENT_DB
from latentdiff.evaluation.tolerance import RUNGS, Criterion

IGNORED: Criterion = "nothing is heard of latents"
MEANINGS: dict[Criterion, str] = {
    "half-way to noise": "half of the change that white noise in place of the latents makes",
    "the codec's own error": "the distance between recordings and their reconstructions",
}
FAINT_DB = 12.0
"""A sound this much weaker than decoded encodings is remarked on."""


def text(r: NoiseLadderResults) -> str:
    """Tables and verdict."""
    parts = [_head(r), _encoded(r), _rungs(r), _left_out(r), _others(r), _verdict(r)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(r: NoiseLadderResults) -> list[str]:
    split = "held-out" if r.held_out else "training"
    return [
        f"{r.clips} clips of {r.clip_seconds:.1f} s of {split} files, {r.kept} of {r.dimensions} "
        "directions kept; levels are medians, distances means over the clips",
    ]


def _line(label: str, level: float, distance: float | None = None, note: str = "") -> str:
    shown = "" if distance is None else f"{distance:8.2f} dB"
    return f"  {label:42}{level:7.1f} dBFS{shown:>13}  {note}".rstrip()


def _encoded(r: NoiseLadderResults) -> list[str]:
    everything = r.all_directions
    own = (
        ""
        if r.codec_db is None
        else f"{r.codec_db:.2f} dB to the recordings: the codec's own error"
    )
    kept = "" if r.kept_codec_db is None else f"{r.kept_codec_db:.2f} dB to the recordings"
    lines = [
        f"{'':44}{'level':>12}   distance to the sound without noise",
        _line("encodings, all directions", everything.level_db, everything.distance_db, own),
        _line("kept directions: the sound without noise", r.unnoised_db, 0.0, kept),
    ]
    if r.recordings_db is not None:
        lines.insert(1, _line("recordings", r.recordings_db))
    return lines


def _rungs(r: NoiseLadderResults) -> list[str]:
    lines = ["noise of k standard deviations of the latents, along the kept directions"]
    for rung in r.rungs:
        label = f"k {rung.k:<5g} log-SNR {-2 * math.log(rung.k) + 0.0:+5.1f}"
        above = rung.distance_db > r.limit_db and r.criterion != IGNORED
        lines.append(_line(label, rung.level_db, rung.distance_db, "broken" if above else ""))
    return lines


def _left_out(r: NoiseLadderResults) -> list[str]:
    if not r.left_out_rungs:
        return []
    lines = ["noise of standard deviation k along the directions left out"]
    for rung in r.left_out_rungs:
        note = "as in an exported RAVE" if rung.k == 1 else ""
        lines.append(_line(f"k {rung.k:g}", rung.level_db, rung.distance_db, note))
    return lines


def _others(r: NoiseLadderResults) -> list[str]:
    labels = {
        "white noise": "white noise as strong as the latents",
        "unit noise": f"unit noise in all {r.dimensions} dimensions",
        "mean": "the mean of the latents",
        "zeros": "zeros, in the codec's own units",
        "frames shuffled": "the frames of all clips, shuffled",
        "mean of all": f"the mean of {r.clips} encodings",
        "half-way": "half-way between two encodings",
    }
    lines = ["latents that encode no sound"]
    for name, row in r.others.items():
        lines.append(_line(labels[name], row.level_db, row.distance_db, _note(row, r)))
    return lines


def _note(row: OtherLatents, r: NoiseLadderResults) -> str:
    if row.to_mix_db is not None:
        return f"{row.to_mix_db:.2f} dB to the mixed sound"
    faint = r.unnoised_db - row.level_db
    silent = "silent, " if row.level_db < SILENT_DB else ""
    return f"{silent}{faint:.0f} dB below the encodings" if faint > FAINT_DB else ""


def _verdict(r: NoiseLadderResults) -> list[str]:
    noise = r.others["white noise"].distance_db
    if r.criterion == IGNORED:
        return [
            f"White noise in place of the latents changes the sound by only {noise:.2f} dB: the "
            "decoder ignores its latents. Train the codec before anything else."
        ]
    meaning = MEANINGS[r.criterion]
    if r.tolerance_std is None or r.tolerance_logsnr is None:
        return [
            f"The decoder tolerates noise of more than {RUNGS[-1]:g} standard deviations of the "
            f"latents: the sound never changes by {r.limit_db:.2f} dB, {meaning}."
        ]
    return [
        f"The decoder tolerates noise of {r.tolerance_std:.2f} standard deviations of the latents, "
        f"log-SNR {r.tolerance_logsnr:+.1f}: there the sound changes by {r.limit_db:.2f} dB, "
        f"{meaning}.",
        "The noise that a diffusion model leaves must stay below that.",
        *_of_left_out(r, noise),
    ]


def _of_left_out(r: NoiseLadderResults, noise: float) -> list[str]:
    return [
        f"Leaving out {r.dimensions - r.kept} directions changes the sound by "
        f"{r.all_directions.distance_db:.2f} dB; unit noise in them by {rung.distance_db:.2f} dB, "
        f"{rung.distance_db / noise:.0%} of the change that white noise in the kept ones makes."
        for rung in r.left_out_rungs
        if rung.k == 1
    ]
