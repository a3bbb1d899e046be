"""Ways to break a store of latents on disk, where no setting shows it.

Each changes the store in place; the seed decides which files, and how. Shapes: D latent dimensions,
T frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentdiff import runs
from latentdiff.latents import statistics
from latentdiff.latents.store import MANIFEST, STATISTICS, LatentStore

LEAST_FRAMES = 200
"""Shortest file that may be overfitted to."""
DELAY = 2.0
"""Seconds by which features are displaced."""

Break = Callable[[LatentStore, int], None]
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def draw_posteriors(store: LatentStore, seed: int) -> None:
    """Means replaced by draws, and the statistics by theirs."""
    rng = np.random.default_rng(seed)
    for entry in store.entries:
        mean, std = np.array(store.mean(entry)), store.std(entry)
        assert std is not None, "encode with latents.keep_std=true"
        noise = rng.standard_normal(mean.shape)
        np.save(store.root / entry.mean, (mean + std * noise).astype(np.float32))
    fit_again(store)


def exchange_features(store: LatentStore, seed: int) -> None:
    """Every file's features replaced by those of another one of its split, as long as needed."""
    rng = np.random.default_rng(seed)
    for split in ("train", "validation"):
        entries = store.of(split)
        order = rng.permutation(len(entries))
        features = [
            {name: np.load(store.root / path) for name, path in entry.feature_files().items()}
            for entry in entries
        ]
        for here, there in zip(order, np.roll(order, 1), strict=True):
            entry, wrong = entries[here], features[there]
            # Not every file has every kind: there may be no beat.
            for name in features[here].keys() & wrong.keys():
                times = -(-entry.frames // wrong[name].shape[1])
                longer = np.tile(wrong[name], times)[:, : entry.frames]
                np.save(store.root / entry.feature_files()[name], longer)


def level_pieces(store: LatentStore, seed: int) -> None:
    """The same mean and covariance for the latents of all files, so that no style is left."""
    whole = np.concatenate([store.mean(entry) for entry in store.entries], axis=1)
    mean, colour = whole.mean(axis=1, keepdims=True), power(np.cov(whole), 0.5)

    def level(own: np.ndarray, _: np.random.Generator) -> np.ndarray:
        centred = own - own.mean(axis=1, keepdims=True)
        return np.asarray(mean + colour @ power(np.cov(own), -0.5) @ centred)

    change(store, seed, 1.0, level)


def power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric matrix; directions of hardly any variance are left out."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > 1e-6 * values[-1], np.maximum(values, 1e-30) ** exponent, 0.0)
    return np.asarray(vectors * powers @ vectors.T)


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
    """Labels dealt out evenly among the files of each split and label, so that none says anything.

    Labels drawn at random for few files may well say something.
    """
    rows = runs.read_jsonl(store.root / MANIFEST)
    labels = sorted({row["label"] for row in rows})
    order = np.random.default_rng(seed).permutation(len(rows))
    alike = sorted(order, key=lambda k: (rows[k]["split"], rows[k]["label"]))
    dealt = {k: labels[place % len(labels)] for place, k in enumerate(alike)}
    runs.write_jsonl(
        store.root / MANIFEST, [row | {"label": dealt[k]} for k, row in enumerate(rows)]
    )


def delay_features(store: LatentStore, seed: int) -> None:
    """All features DELAY seconds too late or, for odd seeds, too early."""
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
