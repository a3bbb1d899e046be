"""The pictures and sounds that `evaluate` writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentdiff import audio, runs
from latentdiff.evaluation import mel, pictures, sets
from latentdiff.evaluation.pictures import LossCurves
from latentdiff.model.clips import ClipSets, original
from latentdiff.model.evaluate import EvaluationResult
from latentdiff.model.evaluate.results import HeldOutSkill
from latentdiff.specs import Codec

log = logging.getLogger(__name__)


def draw(directory: Path, result: EvaluationResult, clips: ClipSets, codec: Codec | None) -> None:
    """scores.png; loss.png if skill was measured; spectrograms.png if there is a codec."""
    drawing: dict[str, Callable[[Path], None]] = {
        "scores.png": lambda path: pictures.scores(path, result.kinds)
    }
    if result.held_out is not None:
        curves = _curves(result.held_out)
        drawing["loss.png"] = lambda path: pictures.losses(path, curves)
    if codec is not None:
        rows = _spectrogram_rows(result, clips, codec)
        config = mel.config_for(codec.sample_rate)
        frame = config.hop / config.sample_rate
        drawing["spectrograms.png"] = lambda path: pictures.spectrograms(path, rows, frame)
    for name, make in drawing.items():
        with runs.atomic(directory / name) as partial:
            make(partial)


def _curves(skill: HeldOutSkill) -> LossCurves:
    return LossCurves(
        logsnr=skill.logsnr,
        losses=skill.losses,
        zero=skill.zero,
        variance=skill.variance,
        wiener=skill.wiener,
        skill=skill.skill,
    )


def _spectrogram_rows(
    result: EvaluationResult, clips: ClipSets, codec: Codec
) -> dict[str, list[NDArray[np.float32]]]:
    """A few log-mel spectrograms [bands, frames] per row: real clips, decoded clips, samples."""
    name = sets.HELD_OUT if sets.HELD_OUT in result.examples else sets.OTHER
    real = clips.held_out if name == sets.HELD_OUT else clips.other
    assert real is not None  # it has been decoded
    decoded = result.examples[name]
    rows: dict[str, list[NDArray[np.float32]]] = {}
    try:
        places = real.places[: len(decoded)]
        rows["recordings"] = _mels([original(p, clips.frames, codec) for p in places], codec)
    except audio.AudioError as error:
        log.warning("spectrograms.png has no row of recordings: %s", error.why or error.what)
    rows["the same, encoded and decoded"] = _mels(decoded, codec)
    for kind in (sets.FOLLOWING, sets.SAMPLES):
        if kind in result.examples:
            rows[kind] = _mels(result.examples[kind], codec)
    return rows


def _mels(sounds: Sequence[NDArray[np.float32]], codec: Codec) -> list[NDArray[np.float32]]:
    return list(mel.log_mels(sounds, codec.sample_rate).numpy())


def write_sounds(directory: Path, result: EvaluationResult, sample_rate: int) -> None:
    """A few samples and decoded real clips as wav files in `directory`/audio."""
    for name in (sets.SAMPLES, sets.FOLLOWING, sets.OTHER, sets.HELD_OUT):
        for index, clip in enumerate(result.examples.get(name, [])):
            path = directory / "audio" / f"{name.split(',')[0].replace(' ', '-')}-{index}.wav"
            runs.make_directory(path.parent)
            audio.write(path, [clip], sample_rate, "wav")
