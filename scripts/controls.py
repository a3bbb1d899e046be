"""The scores of controls: clips made from real ones with something taken away.

    python scripts/controls.py runs/techno/latents --rave runs/techno/rave --seconds 12

Scores as `evaluate` does, for several numbers of clips and seeds that choose other clips: a table
of the lowest and highest score over the seeds by each view, and in how many seeds a set fails on at
least one line (a score below 0.5, or an AUC above 0.75). Every fake should, real clips should not.
Held-out clips are drawn twice: one draw is the scale, the other is a row. No model is needed;
without a codec only latents are scored.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from latentdiff.evaluation import controls, movement, sets
from latentdiff.evaluation.heard import Heard, hear
from latentdiff.evaluation.places import Places
from latentdiff.evaluation.scores import FAILING, TOLD, Described, FormScores, score_form
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.clips import decode
from latentdiff.rave.codec import RaveCodec

AGAIN = "held-out files again"


@dataclass(frozen=True)
class Cut:
    """Real clips."""

    raw: Tensor
    """[B, D, T]."""
    places: Places


@dataclass
class Tally:
    """What the seeds gave of one set."""

    columns: dict[str, list[float | None]] = field(default_factory=lambda: defaultdict(list))
    failed: int = 0

    def add(self, form: FormScores, name: str) -> None:
        """Add one seed."""
        lines = {"all": form.joint, **form.views}
        scores = {view: line.scores[name].value for view, line in lines.items()}
        told = [line.separation[name].value or 0.0 for line in lines.values()]
        for view, score in scores.items():
            self.columns[view].append(score)
        self.columns["AUC"].append(form.joint.separation[name].value)
        self.columns["best AUC"].append(max(told))
        self.columns["variety"].append(form.variety[name].value)
        low = min((score for score in scores.values() if score is not None), default=1.0)
        self.failed += low < FAILING or max(told) > TOLD


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", type=Path)
    parser.add_argument("--rave", type=Path, help="the codec, to score sound too")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--clips", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    store = LatentStore.open(options.latents)
    if store.codec is None:
        parser.error("the codec of these latents is unknown, so their frame rate is too")
    codec = RaveCodec.open(options.rave) if options.rave else None
    for count in options.clips:
        found: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
        for seed in range(options.seeds):
            for kind, form in measure(store, codec, options.seconds, count, seed).items():
                for name in form.joint.scores:
                    found[kind][name].add(form, name)
        for kind, rows in found.items():
            print(f"\n{kind}: {count} clips of {options.seconds:g} s, {options.seeds} seeds")
            print(table(rows, options.seeds))


def table(rows: Mapping[str, Tally], seeds: int) -> str:
    """Lowest and highest of the seeds; `few` if any gave no number."""
    columns = list(next(iter(rows.values())).columns)
    lines = [f"{'':26}" + "".join(f"{column:>13}" for column in columns) + "   fails"]
    for name, row in rows.items():
        cells = "".join(f"{_range(row.columns[column]):>13}" for column in columns)
        lines.append(f"{name:26}{cells}   {row.failed}/{seeds}")
    return "\n".join(lines)


def _range(each: list[float | None]) -> str:
    values = [one for one in each if one is not None]
    return f"{min(values):.2f} {max(values):.2f}" if len(values) == len(each) else "few"


def measure(
    store: LatentStore, codec: RaveCodec | None, seconds: float, count: int, seed: int
) -> dict[str, FormScores]:
    """Scores of one seed by kind of features."""
    assert store.codec is not None
    g, rate = torch.Generator().manual_seed(seed), store.codec.sample_rate / store.codec.hop
    settings = LatentConfig()
    whitening = Whitening.from_statistics(store.statistics(), settings.keep, settings.scaling)
    real = choose(store, round(seconds * rate), count, g)
    finals = {name: whitening.whiten(cut.raw) for name, cut in real.items()}
    white = controls.white_noise(finals[sets.OTHER], g)
    clips = {**finals, **fakes(finals[sets.OTHER], rate, 1 / rate, g), sets.WHITE: white}
    described = {name: movement.describe_latents(x, rate) for name, x in clips.items()}
    found = {"latents": score_all(real, described, g)}
    if codec is not None:
        raws = {name: cut.raw for name, cut in real.items()}
        raws[sets.WHITE] = whitening.unwhiten(white)
        heard = {
            name: hear(decode(codec, raw, settings, name), codec.sample_rate)
            for name, raw in raws.items()
        }
        heard |= {
            name: _altered(heard[sets.OTHER], control, g)
            for name, control in controls.all_controls(1 / rate).items()
        }
        by_sound = {name: heard[name].describe() for name in clips}
        found["sound"] = score_all(real, by_sound, g)
    return found


def _altered(heard: Heard, control: controls.Control, g: torch.Generator) -> Heard:
    return heard.altered(lambda x, rate: control(x, rate, g))


def fakes(clips: Tensor, rate: float, frame: float, g: torch.Generator) -> dict[str, Tensor]:
    """Every control but white noise."""
    return {name: control(clips, rate, g) for name, control in controls.all_controls(frame).items()}


def score_all(
    real: Mapping[str, Cut], features: Mapping[str, dict[str, Tensor]], g: torch.Generator
) -> FormScores:
    """Score sets by their features."""
    described = {}
    for name, of_set in features.items():
        apart = name in controls.UNPLACED or name == sets.WHITE
        places = None if apart else real.get(name, real[sets.OTHER]).places
        described[name] = Described(of_set, places)
    held_out = sets.HELD_OUT if sets.HELD_OUT in described else None
    return score_form(described, sets.REFERENCE, sets.WHITE, held_out, {}, g)


def choose(store: LatentStore, frames: int, count: int, g: torch.Generator) -> dict[str, Cut]:
    """Real clips at places that the generator chooses."""
    places = {
        sets.REFERENCE: ("train", count),
        sets.OTHER: ("train", count),
        sets.HELD_OUT: ("validation", count),
        AGAIN: ("validation", count),
    }
    found = {name: cut(store, split, frames, n, g) for name, (split, n) in places.items()}
    if found[sets.REFERENCE] is None:
        raise SystemExit("no training file is as long as a clip")
    return {name: one for name, one in found.items() if one is not None}


def cut(store: LatentStore, split: str, frames: int, count: int, g: torch.Generator) -> Cut | None:
    """A clip at random from each of equal parts of the files; None if no file is long enough."""
    entries = [entry for entry in store.of(split) if entry.frames >= frames]
    if not entries:
        return None
    room = torch.tensor([entry.frames - frames + 1 for entry in entries]).double()
    ends = room.cumsum(0)
    at = (torch.arange(count) + torch.rand(count, generator=g)) / count * ends[-1]
    chosen: list[tuple[Entry, int]] = []
    for position in at.tolist():
        index = int(torch.searchsorted(ends, position, right=True).clamp(max=len(entries) - 1))
        start = int(position - float(ends[index] - room[index]))
        chosen.append((entries[index], min(start, int(room[index]) - 1)))
    raw = torch.stack([torch.tensor(store.mean(e)[:, s : s + frames]) for e, s in chosen])
    files, starts = zip(*((entry.key, start) for entry, start in chosen), strict=True)
    return Cut(raw.float(), Places(files, starts, frames))


if __name__ == "__main__":
    main()
