"""The scores of controls: clips made from real ones with something taken away.

    python scripts/controls.py runs/techno/latents --seconds 12 --clips 16 32 64 --seeds 5

Prints, for each view of whitened latents, the lowest and highest score over the seeds, and the
same of the AUC of the classifier and of variety. Held-out clips are drawn twice: one draw is the
scale, the other is the row. No model is needed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from latentdiff.evaluation import controls, movement
from latentdiff.evaluation.scores import ClipSet, Interval, score_form
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.latents.whitening import Whitening

REFERENCE = 64
Clips = tuple[Tensor, Tensor]
"""Final latents [B, C, T] and which of them overlap [B, B]."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", type=Path)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--clips", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    store = LatentStore.open(options.latents)
    if store.codec is None:
        parser.error("the codec of these latents is unknown, so their frame rate is too")
    rate = store.codec.sample_rate / store.codec.hop
    settings = LatentConfig()
    whitening = Whitening.from_statistics(store.statistics(), settings.keep, settings.scaling)
    for count in options.clips:
        found: dict[str, dict[str, list[Interval]]] = defaultdict(lambda: defaultdict(list))
        for seed in range(options.seeds):
            measure(store, whitening, rate, round(options.seconds * rate), count, seed, found)
        print(f"\n{count} clips of {options.seconds:g} s, lowest and highest of the seeds")
        columns = list(next(iter(found.values())))
        print(f"{'':18}" + "".join(f"{column:>14}" for column in columns))
        for name, row in found.items():
            print(f"{name:18}" + "".join(f"{_range(row[column]):>14}" for column in columns))


def _range(each: list[Interval]) -> str:
    values = [one.value for one in each if one.value is not None]
    return f"{min(values):.2f} {max(values):.2f}" if len(values) == len(each) else "too few"


def measure(
    store: LatentStore,
    whitening: Whitening,
    rate: float,
    frames: int,
    count: int,
    seed: int,
    found: dict[str, dict[str, list[Interval]]],
) -> None:
    """Add what one seed gives, by set and column."""
    g = torch.Generator().manual_seed(seed)
    reference = cut(store, whitening, "train", frames, REFERENCE, g)
    real = cut(store, whitening, "train", frames, count, g)
    scale, held_out = (cut(store, whitening, "validation", frames, count, g) for _ in range(2))
    sets = make(real, held_out, rate, g)
    if reference is None:
        raise SystemExit("no training file is as long as a clip")
    given = {name: ClipSet(*clips) for name, clips in sets.items()}
    one = None if scale is None else ClipSet(*scale)
    views = movement.latent_views(rate)
    form = score_form(views, ClipSet(*reference), given, "white noise", one, g)
    for name in given:
        for view, line in form.lines.items():
            found[name][view].append(line.scores[name])
        found[name]["AUC"].append(form.separation[name])
        found[name]["variety"].append(form.variety[name])


def make(
    real: Clips | None, held_out: Clips | None, rate: float, g: torch.Generator
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Every set by name. Controls made of overlapping clips overlap too; noise does not, and the
    clips that are repeated are meant to be found."""
    if real is None:
        raise SystemExit("no training file is as long as a clip")
    clips, overlaps = real
    sets: dict[str, tuple[Tensor, Tensor | None]] = {}
    if held_out is not None:
        sets["held-out"] = held_out
    sets |= {
        "training": real,
        "white noise": (controls.white_noise(clips, g), None),
        "Gaussian process": (controls.gaussian_process(clips, g), None),
        "random phases": (controls.random_phases(clips, g), overlaps),
        "frames shuffled": (controls.shuffled_blocks(clips, 1, g), overlaps),
    }
    for seconds in (0.25, 1, 4):
        shuffled = controls.shuffled_blocks(clips, round(seconds * rate), g)
        sets[f"{seconds:g} s shuffled"] = (shuffled, overlaps)
    return sets | {
        "reversed": (controls.reversed_time(clips), overlaps),
        "one repeated": (controls.repeated(clips, 1), None),
        "six repeated": (controls.repeated(clips, 6), None),
        "spliced": (controls.spliced(clips), overlaps),
    }


def cut(
    store: LatentStore,
    whitening: Whitening,
    split: str,
    frames: int,
    count: int,
    g: torch.Generator,
) -> Clips | None:
    """Clips evenly spread over the files, from a random start; None if no file is long enough."""
    entries = [entry for entry in store.of(split) if entry.frames >= frames]
    if not entries:
        return None
    ends = torch.tensor([entry.frames for entry in entries]).double().cumsum(0)
    at = (torch.arange(count) + torch.rand(1, generator=g)) / count * ends[-1]
    places: list[tuple[Entry, int]] = []
    for position in at.tolist():
        index = int(torch.searchsorted(ends, position).clamp(max=len(entries) - 1))
        entry = entries[index]
        share = 1 - (float(ends[index]) - position) / entry.frames
        places.append((entry, int(share * (entry.frames - frames))))
    raw = torch.stack([torch.tensor(store.mean(e)[:, s : s + frames]) for e, s in places])
    overlaps = torch.tensor(
        [[a is b and abs(s - t) < frames for b, t in places] for a, s in places]
    )
    return whitening.whiten(raw.float()), overlaps


if __name__ == "__main__":
    main()
