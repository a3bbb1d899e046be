"""`encode --check`: some files decoded back, beside their originals.

Shapes: N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentdiff import audio as sound
from latentdiff import streaming
from latentdiff.evaluation.sound import level_db, spectral_distance
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.specs import Codec

log = logging.getLogger(__name__)

FILES = 5
SECONDS = 20.0
"""Of each file, from its beginning."""


@dataclass(frozen=True)
class Reconstruction:
    """A recording and what the codec makes of it; levels in dBFS, distance in dB."""

    key: str
    original_db: float
    decoded_db: float
    distance: float


def check_reconstruction(
    codec: Codec, store: LatentStore, settings: LatentConfig
) -> list[Reconstruction]:
    """Decode the beginnings of up to FILES held-out files back, and log levels and distances."""
    chosen = (store.of("validation") or store.entries)[:FILES]
    results = [r for r in (_compare(codec, store, entry, settings) for entry in chosen) if r]
    if not results:
        return []
    log.info("reconstruction of the first %.0f s of %d files:", SECONDS, len(results))
    log.info("  original  decoded  distance  file")
    for r in results:
        numbers = r.original_db, r.decoded_db, r.distance
        log.info("  %5.1f dB %5.1f dB  %5.2f dB  %s", *numbers, r.key)
    mean = sum(r.distance for r in results) / len(results)
    log.info("  mean multi-scale spectral distance %.2f dB", mean)
    return results


def _compare(
    codec: Codec, store: LatentStore, entry: Entry, settings: LatentConfig
) -> Reconstruction | None:
    try:
        original = excerpt(entry, codec, round(SECONDS * codec.sample_rate))
    except sound.AudioError as error:
        log.warning("%s", error)
        return None
    frames = -(-original.shape[1] // codec.hop)
    decoded = streaming.decode(
        codec,
        np.asarray(store.mean(entry)[:, :frames]),
        chunk_seconds=settings.chunk_seconds,
        batch=settings.batch,
    )[:, : original.shape[1]]
    return Reconstruction(
        entry.key,
        level_db(original),
        level_db(decoded),
        spectral_distance(original, decoded),
    )


def excerpt(entry: Entry, codec: Codec, samples: int, skip: int = 0) -> np.ndarray:
    """[channels, N]: the first `samples` of what was encoded, fewer where there are no more.

    `skip`: samples at the beginning to leave out. Raises AudioError where the recording cannot be
    read.
    """
    assert entry.source is not None and entry.samples is not None
    first = round(entry.start * codec.sample_rate) + skip
    last = first + min(entry.samples - skip, samples)
    parts, position = [], 0
    blocks = sound.blocks(Path(entry.source), codec.sample_rate, codec.channels)
    with closing(blocks):  # type: ignore[type-var]
        for block in blocks:
            parts.append(block[:, max(0, first - position) : last - position])
            position += block.shape[1]
            if position >= last:
                break
    return np.concatenate(parts, axis=1)
