"""The pictures and sounds that `evaluate` leaves beside its numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from latentdiff import audio as sound
from latentdiff import runs
from latentdiff.commands.evaluate_job import HANDFUL, Heard, Job, Measured
from latentdiff.evaluation import compare, mel, pictures
from latentdiff.model.clips import original
from latentdiff.specs import Codec

log = logging.getLogger(__name__)


def draw(job: Job, found: Measured) -> None:
    """scores.png, and where there is something to show loss.png and spectrograms.png."""
    results = found.results
    drawing: dict[str, Callable[[Path], None]] = {
        "scores.png": lambda path: pictures.scores(path, found.comparisons)
    }
    if results["held_out"] is not None:
        curves = {f.name: results["held_out"][f.name] for f in fields(pictures.LossCurves)}
        drawing["loss.png"] = lambda path: pictures.losses(path, pictures.LossCurves(**curves))
    if job.codec is not None:
        rows = _spectrogram_rows(job, job.codec, found.heard)
        config = mel.config_for(job.codec.sample_rate)
        frame = config.hop / config.sample_rate
        drawing["spectrograms.png"] = lambda path: pictures.spectrograms(path, rows, frame)
    for name, make in drawing.items():
        with runs.atomic(job.directory / name) as partial:
            make(partial)


def _spectrogram_rows(job: Job, codec: Codec, heard: Heard) -> dict[str, list[np.ndarray]]:
    """Log-mels [bands, frames] of a few clips a row; the originals where they still exist."""
    name = compare.HELD_OUT if compare.HELD_OUT in heard.mels else compare.OTHER
    real = job.clips.held_out if name == compare.HELD_OUT else job.clips.other
    assert real is not None  # it has been heard
    rows: dict[str, list[np.ndarray]] = {}
    try:
        places = real.places[:HANDFUL]
        clips = [original(place, job.clips.frames, codec) for place in places]
        rows["recordings"] = list(mel.log_mels(clips, codec.sample_rate).numpy())
    except sound.AudioError as error:
        log.warning("the recordings are not in the pictures: %s", error.why)
    rows["what the codec makes of them"] = list(heard.mels[name][:HANDFUL].numpy())
    for kind in (compare.FOLLOWING, compare.SAMPLES):
        if kind in heard.mels:
            rows[kind] = list(heard.mels[kind][:HANDFUL].numpy())
    return rows


def keep_sounds(job: Job, heard: Heard) -> None:
    """A handful of samples and of real clips as the codec gives them back, as wav files."""
    if job.codec is None:
        return
    for name in (compare.SAMPLES, compare.FOLLOWING, compare.OTHER, compare.HELD_OUT):
        for index, clip in enumerate(heard.kept.get(name, [])):
            path = job.directory / "audio" / f"{name.split(',')[0].replace(' ', '-')}-{index}.wav"
            runs.make_directory(path.parent)
            sound.write(path, [clip], job.codec.sample_rate, "wav")
