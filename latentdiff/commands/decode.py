"""`decode`: latents + codec -> audio files.

Shapes: D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from latentdiff import audio as sound
from latentdiff import config, runs, streaming
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import SILENT_DB, LevelMeter, json_db
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import MANIFEST, Entry, LatentStore
from latentdiff.model.project import Project, already_done, folder_name
from latentdiff.model.resolve import open_codec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec
from latentdiff.split import whole_key
from latentdiff.tracking import progress
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FAINT_DB = 30.0
"""Files this much quieter than the training audio are reported."""

LOUD_DB = 3.0
"""Limiting from which on it may be heard."""

FADE_SECONDS = 0.01
"""Crossfade where the two parts of a file meet."""

_BLOCK = 1 << 12
"""Latent frames read at a time."""


@dataclass(frozen=True)
class DecodedFile:
    """A line of the manifest of decoded audio."""

    key: str
    """Key of the latents, or of the original file if its two parts were decoded."""
    file: str
    """Name of the audio file."""
    seconds: float
    level_db: float | None
    """RMS in dBFS; None: digital silence."""
    peak: float
    """Largest magnitude before limiting; 1 is full scale."""
    clipped: int
    """Number of samples cut off at full scale, over all channels; 0 if peaks are limited."""
    limited_db: float
    """By how much the loudest peak was turned down, in dB."""


@dataclass(frozen=True)
class DecodeResult:
    """The result that `run.json` stores for a folder of decoded audio."""

    files: int
    seconds: float
    """Total duration of the audio."""
    training_level_db: float | None
    """RMS in dBFS of the audio that the model was trained on; None: not known."""


def decode(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    rave: Path | None = None,
    ckpt: str | None = None,
    name: str | None = None,
    output: Path | None = None,
    audio_format: sound.AudioFormat = "wav",
    limit: bool = True,
    force: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Decode `latents` (a store, samples, or .npy files in a folder or one by one) into audio.

    `latents`: None takes the samples called `name`, or the newest ones. `rave` and `ckpt`: None
    takes the weights that the latents were made with if they are still there, else the run's own
    codec. `output`: where to write; None: `name` below `run.audio`. `limit`: peaks beyond full
    scale are turned down, not cut off. Always returns []: nothing is skipped. Raises UserError if
    latents or codec are missing, do not belong together (`force` accepts another codec of the same
    number of dimensions), or latents are not finite.
    """
    source = latents or _samples(run, name)
    store = LatentStore.open(source)
    codec = open_codec(run, store, rave, ckpt, pick_device(project.device), force=force)
    if codec is None:
        raise UserError(
            f"no codec is known for the latents in {source}",
            why=f"the one they were made with is unknown or gone, and {run.rave} does not exist",
            do_this="name their codec with --rave.",
        )
    directory = output or run.audio / folder_name(name or source.resolve().with_suffix("").name)
    settings = {"format": audio_format, **({} if limit else {"limit": False})}
    inputs = {
        "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        "latents": Input(str(source), store.fingerprint()),
    }
    recordings = _recordings(store, codec)
    seconds = sum(r.samples(codec) for r in recordings) / codec.sample_rate
    log.info("%d files, %.1f s of audio -> %s", len(recordings), seconds, directory)
    if already_done(directory, "decode", settings, inputs, overwrite):
        return []
    if dry_run:
        log.info("dry run: nothing was written")
        return []
    with Stage(directory, "decode", config=settings, inputs=inputs, overwrite=overwrite) as stage:
        usual = _usual_level(run, codec)
        files = _write_all(
            store, recordings, codec, project.latents, directory, audio_format, limit
        )
        runs.write_jsonl(directory / MANIFEST, [asdict(file) for file in files])
        stage.record(**asdict(DecodeResult(len(files), round(seconds, 3), usual)))
        _report(files, usual)
    log.info("audio: %s", directory)
    return []


def _samples(run: Run, name: str | None) -> Path:
    """The folder of samples called `name`, or the newest finished one."""
    there = sorted(run.samples.iterdir()) if run.samples.is_dir() else []
    infos = {path: runs.read_run(path) for path in there if path.is_dir()}
    done = {path: info for path, info in infos.items() if info and info.is_done}
    if name is not None and run.samples / name in done:
        return run.samples / name
    names = ", ".join(path.name for path in done)
    if name is not None and done:
        known = [path.name for path in done]
        raise UserError(
            f"there are no finished samples called '{name}'{config.did_you_mean(name, known)}",
            do_this=f"choose one of: {names}. Or name a folder with --latents.",
        )
    if not done:
        raise UserError(
            f"there are no samples in {run.samples}",
            do_this="make some with `latentdiff sample`, or name latents with --latents.",
        )
    return max(done, key=lambda path: (done[path].started, path.name))


def _usual_level(run: Run, codec: Codec) -> float | None:
    """RMS in dBFS of the audio that this run's latents were made of, if by this codec."""
    info = runs.read_run(run.latents)
    if info is None or info.fingerprint("codec") != codec.fingerprint:
        return None
    return info.number("level_db")


@dataclass(frozen=True)
class _Recording:
    """The latents that make one audio file: one entry, or both parts of a partly held-out file."""

    key: str
    stem: str
    """Wanted for the file's name; others may want it too."""
    parts: tuple[Entry, ...]

    def samples(self, codec: Codec) -> int:
        """N of its audio."""
        return sum(_samples_of(entry, codec) for entry in self.parts)


def _recordings(store: LatentStore, codec: Codec) -> list[_Recording]:
    recordings: list[_Recording] = []
    for entry in store.entries:
        before = recordings[-1].parts[-1] if recordings else None
        key = before and _key_of_whole(before, entry, codec.sample_rate)
        if before and key:
            stem = sound.readable_stem(PurePosixPath(key).stem)
            recordings[-1] = _Recording(key, stem, (before, entry))
        else:
            recordings.append(_Recording(entry.key, Path(entry.mean).stem, (entry,)))
    return recordings


def _key_of_whole(head: Entry, tail: Entry, sample_rate: int) -> str | None:
    """The key of the file that two entries are the parts of; None if they are not."""
    if head.source is None or head.source != tail.source or head.samples is None:
        return None
    follows = round(head.start * sample_rate) + head.samples == round(tail.start * sample_rate)
    return whole_key(head.key, tail.key) if follows else None


def _write_all(
    store: LatentStore,
    recordings: Sequence[_Recording],
    codec: Codec,
    settings: LatentConfig,
    directory: Path,
    audio_format: sound.AudioFormat,
    limit: bool,
) -> list[DecodedFile]:
    """Decode and write every recording."""
    stems = sound.distinct_stems({recording.key: recording.stem for recording in recordings})
    files = []
    total = round(sum(r.samples(codec) for r in recordings) / codec.sample_rate, 1)
    with progress(total=total, unit="s", what="decode") as bar:
        for recording in recordings:
            path = directory / f"{stems[recording.key]}.{audio_format}"
            level = LevelMeter()
            blocks = _audio(store, recording, codec, settings, level)
            report = sound.write(path, blocks, codec.sample_rate, audio_format, limit=limit)
            bar.update(report.seconds)
            files.append(_decoded(recording.key, path, report, level))
    return files


def _audio(
    store: LatentStore,
    recording: _Recording,
    codec: Codec,
    settings: LatentConfig,
    level: LevelMeter,
) -> Iterator[NDArray[np.float32]]:
    """The recording as blocks [channels, n] of its own length; `level` measures them too.

    The decoder gets both parts as one stream: at the end of a file it would fade out.
    """
    latents = (block for entry in recording.parts for block in _finite(store, entry))
    pieces = streaming.decode_files(
        codec,
        [(recording.key, latents)],
        chunk_seconds=settings.chunk_seconds,
        batch=settings.batch,
    )
    decoded = (piece.arrays[0] for piece in pieces)
    fade = round(FADE_SECONDS * codec.sample_rate)
    for block in sound.splice(decoded, _spans(recording.parts, codec), fade):
        level.add(block)
        yield block


def _spans(parts: Sequence[Entry], codec: Codec) -> list[range]:
    """Sample range of each part in the decoded stream; the rest of its last frame is padding."""
    spans, start = [], 0
    for entry in parts:
        spans.append(range(start, start + _samples_of(entry, codec)))
        start += entry.frames * codec.hop
    return spans


def _finite(store: LatentStore, entry: Entry) -> Iterator[NDArray[np.float32]]:
    """The entry's latents in blocks [D, t]. UserError if one is NaN or infinite."""
    array = store.mean(entry)
    for start in range(0, array.shape[1], _BLOCK):
        block = np.asarray(array[:, start : start + _BLOCK], dtype=np.float32)
        if not np.isfinite(block).all():
            raise UserError(
                f"{store.root / entry.mean} has NaN or infinite latents",
                why="the program that made it failed, and it cannot be decoded",
                do_this="make it again with `latentdiff sample` or `encode`, or remove it.",
            )
        yield block


def _samples_of(entry: Entry, codec: Codec) -> int:
    """N of its audio: never more than its frames hold."""
    whole = entry.frames * codec.hop
    return whole if entry.samples is None else min(entry.samples, whole)


def _decoded(key: str, path: Path, report: sound.WriteReport, level: LevelMeter) -> DecodedFile:
    return DecodedFile(
        key=key,
        file=path.name,
        seconds=round(report.seconds, 3),
        level_db=json_db(level.db),
        peak=round(report.peak, 4),
        clipped=report.clipped,
        limited_db=round(report.limited_db, 2),
    )


def _report(files: Sequence[DecodedFile], usual: float | None) -> None:
    """Log a table of levels, and warn of every file that is too quiet or too loud."""
    if usual is not None:
        log.info("level of the training audio: %.1f dBFS", usual)
    least = SILENT_DB if usual is None else max(SILENT_DB, usual - FAINT_DB)
    log.info("   seconds      level   peak  limited  file")
    for file in files:
        level = -math.inf if file.level_db is None else file.level_db
        numbers = file.seconds, level, file.peak, file.limited_db
        log.info("  %8.2f %7.1f dB %6.2f %5.1f dB  %s", *numbers, file.file)
        if level < least:
            log.warning("%s is nearly silent", file.file)
        if file.clipped > 0:
            log.warning("%s: %d samples beyond full scale were cut off", file.file, file.clipped)
        if file.limited_db >= LOUD_DB:
            log.warning("%s: peaks were turned down by up to %.1f dB", file.file, file.limited_db)
