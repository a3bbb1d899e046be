"""`decode`: latents + codec -> sound.

Shapes: D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentdiff import audio as sound
from latentdiff import config, runs, streaming
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import SILENT_DB, LevelMeter
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import MANIFEST, Entry, LatentStore
from latentdiff.model.project import Project, already_done, folder_name
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec
from latentdiff.tracking import progress
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FAINT_DB = 30.0
"""A sound so much weaker than the training audio is reported."""

_BLOCK = 1 << 12
"""Latent frames read at a time."""


def decode(
    run: Run,
    project: Project,
    *,
    latents: Path | None = None,
    rave: Path | None = None,
    ckpt: str | None = None,
    name: str | None = None,
    audio_format: sound.AudioFormat = "wav",
    force: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Decode `latents` (a store, samples, a folder of .npy or one) into `run.audio / name`.

    Without `latents` the samples called `name`, or the newest ones. Without `rave` and `ckpt` the
    very weights that the latents name, where they still lie there, else the run's own codec.
    Raises UserError where latents or codec are missing or do not belong together (`force` lets
    latents of another codec of as many dimensions pass), or where latents are not finite.
    """
    source = latents or _samples(run, name)
    store = LatentStore.open(source)
    codec = RaveCodec.open(*_codec_of(run, store, rave, ckpt), pick_device(project.device))
    _check_fit(store, codec, source, force)
    directory = run.audio / folder_name(name or source.resolve().with_suffix("").name)
    settings = {"format": audio_format}
    inputs = {
        "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        "latents": Input(str(source), store.fingerprint()),
    }
    seconds = sum(_samples_of(entry, codec) for entry in store.entries) / codec.sample_rate
    log.info("%d latents, %.1f s of sound -> %s", len(store.entries), seconds, directory)
    if already_done(directory, "decode", settings, inputs, overwrite):
        return []
    if dry_run:
        log.info("dry run: nothing was written")
        return []
    with Stage(directory, "decode", config=settings, inputs=inputs, overwrite=overwrite) as stage:
        usual = _usual_level(run, codec)
        rows = _write_all(store, codec, directory, audio_format, project.latents)
        runs.write_jsonl(directory / MANIFEST, rows)
        stage.record(files=len(rows), seconds=round(seconds, 3), training_level_db=usual)
        _judge(rows, usual)
    log.info("sound: %s", directory)
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
            do_this=f"there are: {names}. Or name a folder with --latents.",
        )
    if not done:
        raise UserError(
            f"there are no samples in {run.samples}",
            do_this="draw some: `latentdiff sample`, or name a folder of latents with --latents.",
        )
    return max(done, key=lambda path: (done[path].started, path.name))


def _codec_of(
    run: Run, store: LatentStore, rave: Path | None, ckpt: str | None
) -> tuple[Path, str | None]:
    """Where the codec is, and which of its checkpoints."""
    info = runs.read_run(store.root)
    recorded = info.input_path("codec") if info else None
    if rave is None and ckpt is None and recorded and recorded.is_file():
        return recorded, None
    return rave or run.rave, ckpt


def _check_fit(store: LatentStore, codec: RaveCodec, source: Path, force: bool) -> None:
    if store.latent_dim != codec.latent_dim:
        raise UserError(
            f"the latents in {source} have {store.latent_dim} dimensions, the codec "
            f"{codec.latent_dim}",
            why="they are of another codec, or lie as [frames, dimensions]",
            do_this="give their codec with --rave; arrays must be [dimensions, frames].",
        )
    if store.codec is None:
        log.warning("%s does not say whose latents it holds; taking them for this codec's", source)
    elif store.codec.fingerprint != codec.fingerprint:
        error = UserError(
            f"the latents in {source} are of another codec",
            why=f"they are of {store.codec.fingerprint[:12]}..., "
            f"{codec.origin.path} is {codec.fingerprint[:12]}...",
            do_this="give theirs with --rave or --ckpt; a codec that was trained further needs "
            "`latentdiff encode` anew. --force decodes them all the same.",
        )
        if not force:
            raise error
        log.warning("forced: %s", error.what)


def _usual_level(run: Run, codec: Codec) -> float | None:
    """dBFS RMS of the audio this run's latents were trained on, if they are of this codec."""
    info = runs.read_run(run.latents)
    if info is None or info.fingerprint("codec") != codec.fingerprint:
        return None
    return info.number("level_db")


def _write_all(
    store: LatentStore,
    codec: Codec,
    directory: Path,
    audio_format: sound.AudioFormat,
    settings: LatentConfig,
) -> list[dict[str, Any]]:
    """Every entry as a file of sound; the manifest's rows."""
    stems = Counter(Path(entry.mean).stem for entry in store.entries)
    rows = []
    total = round(sum(_samples_of(e, codec) for e in store.entries) / codec.sample_rate, 1)
    with progress(total=total, unit="s", what="decode") as bar:
        for entry in store.entries:
            stem = Path(entry.mean).stem
            # Equal names in different folders: the key tells them apart.
            name = stem if stems[stem] == 1 else sound.file_stem(entry.key)
            path = directory / f"{name}.{audio_format}"
            level = LevelMeter()
            blocks = _sound(store, entry, codec, settings, level)
            report = sound.write(path, blocks, codec.sample_rate, audio_format)
            bar.update(report.seconds)
            rows.append(_row(entry, path, report, level))
    return rows


def _sound(
    store: LatentStore, entry: Entry, codec: Codec, settings: LatentConfig, level: LevelMeter
) -> Iterator[np.ndarray]:
    """The entry as blocks [channels, n], cut to its length; `level` hears them too."""
    left = _samples_of(entry, codec)
    pieces = streaming.decode_files(
        codec,
        [(entry.key, _finite(store, entry))],
        chunk_seconds=settings.chunk_seconds,
        batch=settings.batch,
    )
    for piece in pieces:
        block = piece.arrays[0][:, :left]
        left -= block.shape[1]
        level.add(block)
        yield block


def _finite(store: LatentStore, entry: Entry) -> Iterator[np.ndarray]:
    """The entry's latents in blocks [D, t]. UserError where one is NaN or infinite."""
    array = store.mean(entry)
    for start in range(0, array.shape[1], _BLOCK):
        block = np.asarray(array[:, start : start + _BLOCK], dtype=np.float32)
        if not np.isfinite(block).all():
            raise UserError(
                f"{store.root / entry.mean} holds NaN or infinite latents",
                why="what made it has failed; no sound can come of it",
                do_this="make it again (`latentdiff sample` or `encode`), or take it out.",
            )
        yield block


def _samples_of(entry: Entry, codec: Codec) -> int:
    """N of its sound: never more than its frames hold."""
    whole = entry.frames * codec.hop
    return whole if entry.samples is None else min(entry.samples, whole)


def _row(entry: Entry, path: Path, report: sound.WriteReport, level: LevelMeter) -> dict[str, Any]:
    silent = math.isinf(level.db)
    return {
        "key": entry.key,
        "file": path.name,
        "seconds": round(report.seconds, 3),
        "level_db": None if silent else round(level.db, 2),
        "peak": round(report.peak, 4),
        "clipped": report.clipped,
    }


def _judge(rows: list[dict[str, Any]], usual: float | None) -> None:
    """The table of levels, and a word on every file that cannot be right."""
    if usual is not None:
        log.info("level of the training audio: %.1f dBFS", usual)
    log.info("   seconds      level   peak  clipped  file")
    for row in rows:
        level = -math.inf if row["level_db"] is None else row["level_db"]
        numbers = row["seconds"], level, row["peak"], row["clipped"]
        log.info("  %8.2f %7.1f dB %6.2f %8d  %s", *numbers, row["file"])
        if level < (SILENT_DB if usual is None else max(SILENT_DB, usual - FAINT_DB)):
            log.warning("%s is nearly silent", row["file"])
        if row["clipped"] > 0:
            log.warning(
                "%s: %d samples were beyond full scale and are clipped",
                row["file"],
                row["clipped"],
            )
