"""Breaks trainings on purpose and checks that `diagnose training` finds the cause.

    python scripts/break_training.py --latents runs/techno/latents --out runs/broken --seeds 0,1,2

Runs that are broken, each in one way, and five that are not, for every seed; then a table of the
first findings. Latents and conditions are broken on disk, where no setting shows it. The latents
need posterior deviations (latents.keep_std=true) and condition.kinds=style,beat,mel,label. The same
command again only diagnoses once more. Exit code 1 if a cause is not named first, or anything is
found in a healthy run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import markdown, run_latentdiff

from latentdiff import runs
from latentdiff.latents import statistics
from latentdiff.latents.store import MANIFEST, STATISTICS, LatentStore

RATE = 0.004
"""A learning rate that is fast and stable on a CPU."""
SETTINGS = {
    "training.batch": 16,
    "training.window": 64,
    "training.learning_rate": RATE,
    "network.channels": 32,
    "network.blocks": 8,
    "training.demo_samples": 0,
    "training.leaks": "allow",
    "training.calibration_samples": 0,
}
FREE: dict[str, object] = {"condition.kinds": "none"}
MEL: dict[str, object] = {"condition.kinds": "mel"}
LABEL: dict[str, object] = {"condition.kinds": "style,beat,label"}
NOTHING = "nothing"
LEAST_FRAMES = 200
"""Shortest file that may be overfitted to."""

DELAY = 2.0
"""Seconds by which conditions are displaced."""

Break = Callable[[LatentStore, int], None]
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def main() -> None:
    options = arguments()
    rows = []
    for seed in options.seeds:
        for case, (expected, break_latents, settings) in CASES.items():
            if options.cases and case not in options.cases:
                continue
            root = options.out / f"{case}-{seed}"
            latents = prepared(
                options.latents, options.out / f"{case}-{seed}-latents", break_latents, seed
            )
            train(root, latents, settings, seed, options)
            found = diagnose(root, latents)
            first = found[0] if found else NOTHING
            rows.append(
                {
                    "case": case,
                    "seed": seed,
                    "first": first,
                    "right": "yes" if first == expected else f"no: {expected}",
                    "also": ", ".join(found[1:]),
                }
            )
            print(f"{case}, seed {seed}: {', '.join(found) or NOTHING}", flush=True)
    print(markdown(rows))
    sys.exit(0 if all(row["right"] == "yes" for row in rows) else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=Path, required=True, help="a store of `encode`")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores and runs")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="such as 0,1,2")
    parser.add_argument("--steps", type=int, default=400, help="of a training; to overfit, twice")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training, at most")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), help="only these")
    return parser.parse_args()


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def prepared(source: Path, target: Path, break_latents: Break | None, seed: int) -> Path:
    """The latents to train on: those given, or a copy that was broken."""
    if break_latents is None:
        return source
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    break_latents(LatentStore.open(target), seed)
    return target


def train(
    run: Path, latents: Path, settings: dict[str, object], seed: int, options: argparse.Namespace
) -> None:
    given = {**SETTINGS, "training.hours": options.minutes / 60, **settings}
    words = [f"{key}={value}" for key, value in given.items()]
    words.append(f"training.steps={options.steps * (2 if settings is OVERFIT else 1)}")
    places = ["--run", run, "--latents", latents, "--device", "cpu", "--seed", seed]
    run_latentdiff("train-diffusion", *places, *words, threads=1)


def diagnose(run: Path, latents: Path) -> list[str]:
    """The causes found, heaviest first."""
    words = ["--run", run, "--latents", latents, "--device", "cpu", "--overwrite"]
    run_latentdiff("diagnose", "training", *words, threads=1)
    report = run / "diagnosis" / "training" / "training.json"
    results = json.loads(report.read_text(encoding="utf-8"))
    return [finding["cause"] for finding in results["findings"]]


def draw_posteriors(store: LatentStore, seed: int) -> None:
    """Means replaced by draws, and the statistics by theirs."""
    rng = np.random.default_rng(seed)
    for entry in store.entries:
        mean, std = np.array(store.mean(entry)), store.std(entry)
        assert std is not None, "encode with latents.keep_std=true"
        noise = rng.standard_normal(mean.shape)
        np.save(store.root / entry.mean, (mean + std * noise).astype(np.float32))
    fit_again(store)


def exchange_conditions(store: LatentStore, seed: int) -> None:
    """Every file's spectrogram replaced by that of another one of its split, as long as needed."""
    rng = np.random.default_rng(seed)
    for split in ("train", "validation"):
        entries = store.of(split)
        order = rng.permutation(len(entries))
        mels = [np.array(store.features(entry, "mel")) for entry in entries]
        for here, there in zip(order, np.roll(order, 1), strict=True):
            entry, wrong = entries[here], mels[there]
            times = -(-entry.frames // wrong.shape[1])
            np.save(store.root / entry.mel, np.tile(wrong, times)[:, : entry.frames])


def leave_one(store: LatentStore, seed: int) -> None:
    """Keep one short training file, of those that hold a few windows."""
    rows = runs.read_jsonl(store.root / MANIFEST)
    train = [row for row in rows if row["split"] == "train" and row["frames"] >= LEAST_FRAMES]
    train = sorted(train, key=lambda row: row["frames"])[:3]
    left = [train[seed % len(train)], *(row for row in rows if row["split"] != "train")]
    runs.write_jsonl(store.root / MANIFEST, left)
    fit_again(LatentStore.open(store.root))


def fit_again(store: LatentStore) -> None:
    files = ((store.mean(entry), store.std(entry)) for entry in store.of("train"))
    statistics.fit(files).save(store.root / STATISTICS)


def exchange_labels(store: LatentStore, seed: int) -> None:
    """Labels drawn anew for every file, as often as before."""
    rows = runs.read_jsonl(store.root / MANIFEST)
    order = np.random.default_rng(seed).permutation(len(rows))
    labels = [rows[k]["label"] for k in order]
    runs.write_jsonl(
        store.root / MANIFEST,
        [row | {"label": label} for row, label in zip(rows, labels, strict=True)],
    )


def delay_conditions(store: LatentStore, seed: int) -> None:
    """Every spectrogram and beat DELAY seconds too late or, for odd seeds, too early."""
    assert store.codec is not None
    frames = round(DELAY * store.codec.sample_rate / store.codec.hop) * (-1) ** seed
    for entry in store.entries:
        for path in entry.feature_files().values():
            np.save(store.root / path, np.roll(np.load(store.root / path), frames, axis=1))


def leak(store: LatentStore, seed: int) -> None:
    """Copies of the held-out files among the training files."""
    rows = runs.read_jsonl(store.root / MANIFEST)
    copied = []
    for entry, row in ((e, r) for e, r in zip(store.entries, rows, strict=True)):
        if entry.split == "train":
            continue
        names = {"mean": f"leak-{len(copied)}.npy"}
        np.save(store.root / names["mean"], np.array(store.mean(entry)))
        copied.append(row | {"key": f"leaked/{len(copied)}.wav", "split": "train"} | names)
    order = np.random.default_rng(seed).permutation(len(rows) + len(copied))
    runs.write_jsonl(store.root / MANIFEST, [(rows + copied)[k] for k in order])
    fit_again(LatentStore.open(store.root))


def change(store: LatentStore, seed: int, share: float, how: Change) -> None:
    """Latents of this share of the files changed by `how`, at least those of one file."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(store.entries))[: max(1, round(share * len(store.entries)))]
    state = int(rng.integers(1 << 30))
    for k in chosen:
        entry = store.entries[k]
        changed = how(np.array(store.mean(entry)), np.random.default_rng(state))
        np.save(store.root / entry.mean, changed.astype(np.float32))
    fit_again(store)


def offset(store: LatentStore, seed: int) -> None:
    """A constant of a deviation of the latents added to half of the files."""
    size = float(np.sqrt(np.trace(store.statistics().covariance) / store.latent_dim))

    def add(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return mean + size * rng.standard_normal((len(mean), 1))

    change(store, seed, 0.5, add)


def silence(store: LatentStore, seed: int) -> None:
    """Nine tenths of every file at rest, at one point for all."""
    point = np.array(store.mean(store.entries[0])[:, :1])

    def rest(mean: np.ndarray, _: np.random.Generator) -> np.ndarray:
        quiet = round(0.9 * mean.shape[1])
        return np.concatenate([np.repeat(point, quiet, axis=1), mean[:, quiet:]], axis=1)

    change(store, seed, 1.0, rest)


def scale_one(store: LatentStore, seed: int) -> None:
    """The latents of one file ten times as large."""
    change(store, seed, 0.0, lambda mean, _: 10 * mean)


def mix_codecs(store: LatentStore, seed: int) -> None:
    """The latents of half of the files in other, rotated directions, as another codec's are."""

    def rotate(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        square = rng.standard_normal((len(mean), len(mean)))
        return np.asarray(np.linalg.qr(square)[0] @ mean)

    change(store, seed, 0.5, rotate)


OVERFIT: dict[str, object] = {
    "condition.kinds": "none",
    "network.channels": 64,
    "training.window": 32,
    "training.batch": 8,
}
TRANSFORMER: dict[str, object] = {
    "network.name": "transformer",
    "network.channels": 64,
    "network.blocks": 3,
    "training.learning_rate": RATE / 2,
}
BATCH_NORM: dict[str, object] = {
    "experiment.network.norm": "batch",
    "experiment.training.levels": "batch",
}
CASES: dict[str, tuple[str, Break | None, dict[str, object]]] = {
    "sampled": ("sampled-posteriors", draw_posteriors, {}),
    "shuffled": ("unpaired-conditions", exchange_conditions, MEL),
    "batch-norm": ("batch-norm", None, BATCH_NORM),
    "fast": ("learning-rate-too-high", None, {"training.learning_rate": 100 * RATE}),
    "overfit": ("overfitting", leave_one, OVERFIT),
    "late": ("misaligned-conditions", delay_conditions, MEL),
    "late-beat": ("misaligned-conditions", delay_conditions, {}),
    "labels": ("ignored-condition", exchange_labels, LABEL),
    "leak": ("leak", leak, {}),
    "offset": ("offset-files", offset, {}),
    "silence": ("silence", silence, {}),
    "loud": ("scaled-files", scale_one, {}),
    "codecs": ("mixed-codecs", mix_codecs, {}),
    "decay": ("weight-decay-too-strong", None, {"training.weight_decay": 100}),
    "clip": ("gradient-clip-too-low", None, {"training.gradient_clip": 1e-6}),
    "slow": ("learning-rate-too-low", None, {"training.learning_rate": 1e-6}),
    "free": ("no-form", None, FREE),
    "healthy": (NOTHING, None, {}),
    "mel": (NOTHING, None, MEL),
    "labelled": (NOTHING, None, LABEL),
    "eps": (NOTHING, None, {"diffusion.parametrisation": "eps"}),
    "transformer": (NOTHING, None, TRANSFORMER),
}
"""Case -> expected first finding, how the latents are broken, and settings."""


if __name__ == "__main__":
    main()
