"""`encode --check`: decodes some files and compares them with the recordings.

Shapes: N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentdiff import audio as sound
from latentdiff import streaming
from latentdiff.evaluation import mel
from latentdiff.evaluation.sound import SILENT_DB, is_silent, level_db, spectral_distance
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.specs import Codec

log = logging.getLogger(__name__)

FILES = 5
"""Number of files checked."""
SECONDS = 20.0
"""Seconds checked of each file, from its beginning."""
LEVEL_DB = -20.0
"""dBFS RMS to which recordings are normalised for comparison, so that the floor of the distance is
60 dB below each recording's own level, however quiet it is."""
TOO_QUIET_DB = 20.0
"""Drop in level from which a decoded file counts as silent. Codecs that smooth the spectrum lose
up to 10 dB."""
LEAST_CORRELATION = 0.4
"""Below it, a decoded file does not follow its recording. A RAVE v2 trained briefly on music and
speech has 0.69 to 0.81; other recordings reach 0.30, noise of the same spectrum 0.02."""

Verdict = Literal["follows", "silent", "unrelated"]


@dataclass(frozen=True)
class Reconstruction:
    """A recording compared with its reconstruction by the codec."""

    key: str
    original_db: float
    """RMS of the recording in dBFS; -inf for digital silence."""
    decoded_db: float
    """RMS of the decoded audio in dBFS; -inf for digital silence."""
    distance: float
    """Multi-scale log-spectral distance in dB, both amplified to a recording at LEVEL_DB."""
    distance_of_silence: float
    """The same if the codec put out silence: a codec must beat it, and on sparse recordings (few
    frequencies at a time) that is hard."""
    correlation: float | None
    """Correlation of the level changes over time, -1..1; see `mel.correlation`. None: too short or
    too steady."""

    @property
    def verdict(self) -> Verdict | None:
        """Whether the codec renders the recording. No verdict on a silent or steady recording.

        The distance is not used: silence and noise can win it on sparse recordings, while neither
        has any correlation.
        """
        if self.original_db < SILENT_DB:
            return None
        if self.decoded_db < self.original_db - TOO_QUIET_DB:
            return "silent"
        if self.correlation is None:
            return None
        return "follows" if self.correlation >= LEAST_CORRELATION else "unrelated"


def check_reconstruction(
    codec: Codec, store: LatentStore, settings: LatentConfig
) -> list[Reconstruction]:
    """Decode the beginnings of up to FILES held-out files; log how they compare, and warnings."""
    chosen = (store.of("validation") or store.entries)[:FILES]
    results = [r for r in (_check(codec, store, entry, settings) for entry in chosen) if r]
    if results:
        _report(results)
    return results


def _report(results: Sequence[Reconstruction]) -> None:
    log.info("reconstruction of the first %.0f s of %d files:", SECONDS, len(results))
    log.info("  original  decoded  distance  (silence)  correlation  file")
    for r in results:
        correlation = "-" if r.correlation is None else f"{r.correlation:.2f}"
        numbers = r.original_db, r.decoded_db, r.distance, r.distance_of_silence, correlation
        log.info("  %5.1f dB %5.1f dB  %5.2f dB  %6.2f dB  %11s  %s", *numbers, r.key)
    audible = [r for r in results if r.original_db >= SILENT_DB]
    if audible:
        mean = sum(r.distance for r in audible) / len(audible)
        log.info("  mean multi-scale spectral distance %.2f dB", mean)
    for r in results:
        _warn(r)


def _warn(r: Reconstruction) -> None:
    if r.verdict == "silent":
        drop = r.original_db - r.decoded_db
        log.warning("%s is decoded as near-silence, %.0f dB below the recording", r.key, drop)
    elif r.verdict == "unrelated":
        log.warning(
            "%s: the decoded audio does not follow the recording (correlation %.2f; other "
            "recordings and noise reach 0.3). Train the codec for longer, or on audio like this.",
            r.key,
            r.correlation,
        )


def _check(
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
    return compare(entry.key, original, decoded, codec.sample_rate)


def compare(
    key: str, original: NDArray[np.float32], decoded: NDArray[np.float32], sample_rate: int
) -> Reconstruction:
    """Compare a recording [channels, N] with its reconstruction [channels, N]."""
    original_db = level_db(original)
    # The same gain for both: the codec's own loss of level still counts.
    gain = 1.0 if is_silent(original) else 10 ** ((LEVEL_DB - original_db) / 20)
    a, b = (np.float32(gain) * audio for audio in (original, decoded))
    mels = mel.log_mels([a, b], sample_rate)
    # The first and the last frame are half silence: a fade that both have, whatever they contain.
    inner = mels[..., 1:-1]
    return Reconstruction(
        key,
        original_db,
        level_db(decoded),
        spectral_distance(a, b),
        spectral_distance(a, np.zeros_like(a)),
        mel.correlation(inner[0], inner[1]),
    )


def excerpt(entry: Entry, codec: Codec, samples: int, skip: int = 0) -> NDArray[np.float32]:
    """[channels, N] of the audio that was encoded: up to `samples` of it, after the first `skip`.

    Raises AudioError if the recording cannot be read.
    """
    assert entry.source is not None and entry.samples is not None
    first = round(entry.start * codec.sample_rate) + skip
    last = first + min(entry.samples - skip, samples)
    parts, position = [], 0
    blocks = sound.blocks(Path(entry.source), codec.sample_rate, codec.channels)
    with closing(blocks):
        for block in blocks:
            parts.append(block[:, max(0, first - position) : last - position])
            position += block.shape[1]
            if position >= last:
                break
    return np.concatenate(parts, axis=1)
