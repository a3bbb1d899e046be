"""`quickstart`: the whole chain, small, through the very commands a user would type."""

from __future__ import annotations

import logging
import math
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentdiff import audio as sound
from latentdiff import child, runs, synth
from latentdiff.commands.presets import preset_path
from latentdiff.errors import EXIT_INTERRUPTED, EXIT_LOSSES, EXIT_OK, UserError
from latentdiff.evaluation.sound import SILENT_DB, LevelMeter
from latentdiff.latents.store import MANIFEST
from latentdiff.model.project import Project, resolve
from latentdiff.runs import Run
from latentdiff.training.verdict import NO_SKILL

log = logging.getLogger(__name__)

NAME = "quickstart"
"""Of the preset, and of the folder below samples/ and audio/."""
RECONSTRUCTION = "reconstruction"
MUSIC = "music"
"""Folder of the run that holds the music made here."""
PIECES = 12
PIECE_SECONDS = 24.0
CLIPS = 4
CLIP_SECONDS = 6.0

FEW_SECONDS = 60.0
"""Less audio than this is warned about."""
TOLERANCE_DB = 12.0
"""Clips farther off the training audio's level are told of; a reconstruction, by half of it."""


@dataclass(frozen=True)
class Report:
    """What came out, in numbers. Levels are RMS in dBFS."""

    training: float
    original: float
    reconstruction: tuple[str, float]
    """File name, level."""
    clips: dict[str, float]
    """File name -> level."""
    skill: float
    """1 - loss / loss of a model that knows each channel's variance only; on held-out files."""


def quickstart(
    run: Run,
    *,
    audio_dir: Path | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Learn from the recordings in `audio_dir`, or from music made here, and end in sound.

    `settings` are KEY=VALUE words over the preset. Run again, every stage continues where it
    stopped. Returns what the commands on the way counted as losses. Raises UserError where one of
    them fails, and KeyboardInterrupt, once it has ended in order, where one is interrupted.
    """
    options = ["--seed", str(seed)] if seed is not None else []
    options += ["--device", device] if device else []
    project = resolve(None, preset_path(NAME), settings, {"seed": seed, "device": device})
    music = audio_dir or run.root / MUSIC
    commands = _commands(run, music, [*options, *settings], overwrite)
    if dry_run:
        _tell(commands, music, made_here=audio_dir is None)
        return []
    if audio_dir is None:
        write_music(music, project.data.sample_rate, project.seed, overwrite)
    else:
        _weigh(sound.find([audio_dir]), project)
    started = time.monotonic()
    losses = [loss for words in commands for loss in _call(words)]
    losses += _call(_reconstruct(run, [*options, *settings], overwrite))
    _write_original(run, project)
    report = _measure(run)
    _conclude(run, report, time.monotonic() - started)
    return losses


def write_music(folder: Path, sample_rate: int, seed: int, overwrite: bool = False) -> None:
    """Compose the pieces that are not yet in the folder (`overwrite`: all) as 16-bit wav."""
    runs.make_directory(folder)
    runs.remove_partial(folder)
    made = 0
    for index in range(PIECES):
        path = folder / f"piece-{index + 1:02d}-{synth.STYLES[index % len(synth.STYLES)].name}.wav"
        if overwrite or not path.exists():
            piece = synth.compose(seed, index, sample_rate, seconds=PIECE_SECONDS)
            sound.write(path, piece, sample_rate)
            made += 1
    if made:
        log.info("made %d pieces of music to learn from: %s", made, folder)


def _commands(run: Run, music: Path, settings: Sequence[str], overwrite: bool) -> list[list[str]]:
    """The chain as a user would type it."""
    stages = [
        ["preprocess", "--audio", str(music)],
        ["train-rave"],
        ["encode", "--check"],
        ["train-diffusion"],
        ["sample", "--n", str(CLIPS), "--seconds", f"{CLIP_SECONDS:g}", "--name", NAME],
        ["decode", "--name", NAME],
    ]
    return [_command(run, stage, settings, overwrite) for stage in stages]


def _reconstruct(run: Run, settings: Sequence[str], overwrite: bool) -> list[str]:
    """The command that decodes one held-out file's own latents."""
    row = _held_out(run)
    stage = ["decode", "--latents", str(run.latents / row["mean"]), "--name", RECONSTRUCTION]
    return _command(run, stage, settings, overwrite)


def _command(run: Run, stage: Sequence[str], settings: Sequence[str], overwrite: bool) -> list[str]:
    level = log.getEffectiveLevel()
    loudness = ["-v"] if level < logging.INFO else ["-q"] if level > logging.INFO else []
    name, *options = stage
    common = ["--run", str(run.root), "-c", str(preset_path(NAME)), *loudness]
    return [
        "latentdiff",
        name,
        *common,
        *options,
        *(["--overwrite"] if overwrite else []),
        *settings,
    ]


def _call(words: list[str]) -> list[str]:
    """Run one command, its output going where ours goes; returns its loss, if it told of any."""
    line = shlex.join(words)
    log.info("\n$ %s", line)
    code = child.wait([sys.executable, "-m", *words])
    if code == EXIT_OK:
        return []
    if code == EXIT_LOSSES:
        return [f"{line}: told of losses, listed in its output above"]
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    raise UserError(
        f"quickstart stopped: `latentdiff {words[1]}` "
        + (f"was ended by signal {-code}" if code < 0 else f"failed (exit code {code})"),
        why="the system may have run out of memory"
        if code == -signal.SIGKILL
        else "its own message stands above",
        do_this="mend that and give the same command again: it continues where it stopped.",
    )


def _tell(commands: list[list[str]], music: Path, made_here: bool) -> None:
    """`--dry-run`: the commands that would run."""
    if made_here:
        minutes = PIECES * PIECE_SECONDS / 60
        log.info("would write %d pieces (%.0f min) of music into %s", PIECES, minutes, music)
    else:
        found = sound.find([music])
        log.info("would learn from %d files in %s", len(found.files), music)
    log.info("would run:")
    for words in commands:
        log.info("$ %s", shlex.join(words))


def _weigh(found: sound.FoundAudio, project: Project) -> None:
    """Say it when there is too little audio to learn from, or more than is going to be heard."""
    seconds = 0.0
    for _, path in found.files:
        with suppress(UserError):  # preprocess will list it
            seconds += sound.probe(path).seconds
    rave = project.rave
    heard = rave.steps * rave.batch * rave.n_signal / project.data.sample_rate
    if seconds < FEW_SECONDS:
        log.warning(
            "only %.0f s of audio: expect the models to learn it by heart, or nothing at all; "
            "some minutes are wanted",
            seconds,
        )
    elif seconds > heard:
        log.warning(
            "%.1f h of audio, of which this short training hears %.1f h at most; for the whole, "
            "`latentdiff config init mine.yaml --preset laptop` (or gpu)",
            seconds / 3600,
            heard / 3600,
        )


def _held_out(run: Run) -> dict[str, Any]:
    """The manifest row of the shortest file that no model was trained on."""
    rows = runs.read_jsonl(run.latents / MANIFEST)
    held_out = [row for row in rows if row.get("split") == "validation"]
    return min(held_out or rows, key=lambda row: row["frames"])


def _measure(run: Run) -> Report:
    """Levels of what went in and came out, and the diffusion model's skill."""
    encoded = runs.require_done(run.latents, "encode", "encode").result
    diffusion = runs.require_done(run.diffusion, "train-diffusion", "train-diffusion").result
    (reconstruction,) = _levels(run.audio / RECONSTRUCTION).items()
    original = LevelMeter()
    for block in sound.blocks(_original(run)):
        original.add(block)
    return Report(
        training=encoded["level_db"],
        original=original.db,
        reconstruction=reconstruction,
        clips=_levels(run.audio / NAME),
        skill=diffusion["skill"],
    )


def _levels(folder: Path) -> dict[str, float]:
    """File name -> level of each file that `decode` has written there; -inf for digital silence."""
    rows = runs.read_jsonl(folder / MANIFEST)
    levels = {row["file"]: row["level_db"] for row in rows}
    return {name: -math.inf if level is None else level for name, level in levels.items()}


def verdicts(report: Report) -> list[str]:
    """Plain words for everything that did not go well; empty where all did."""
    said = []
    gain = report.reconstruction[1] - report.original
    if report.reconstruction[1] < SILENT_DB:
        said.append("the reconstruction is silent: the codec has learned nothing")
    elif abs(gain) > TOLERANCE_DB / 2:
        said.append(
            f"the reconstruction is {gain:+.1f} dB off its original: the codec has not learned "
            "the sound well"
        )
    for name, value in report.clips.items():
        if value < SILENT_DB:
            said.append(f"{name} is silent")
        elif abs(value - report.training) > TOLERANCE_DB:
            said.append(f"{name} is {value - report.training:+.1f} dB off the training audio")
    if report.skill < NO_SKILL:
        said.append(
            f"diffusion skill {report.skill:.3f}: the diffusion model has learned nothing beyond "
            "how much each latent varies; its clips are the codec's sound in no order"
        )
    return said


def _conclude(run: Run, report: Report, seconds: float) -> None:
    """Where the sound is, whether it is any good, and what to do next."""
    audio = run.audio
    log.info("\nquickstart is done (%.1f minutes)", seconds / 60)
    log.info("\nlisten to")
    for name, value in report.clips.items():
        log.info("  %6.1f dBFS  %s", value, audio / NAME / name)
    log.info("and to a recording that the models have not seen, beside what the codec makes of it")
    log.info("  %6.1f dBFS  %s", report.original, _original(run))
    name, value = report.reconstruction
    log.info("  %6.1f dBFS  %s", value, audio / RECONSTRUCTION / name)
    log.info("training audio: %.1f dBFS; diffusion skill: %.2f", report.training, report.skill)
    for line in verdicts(report):
        log.warning("%s", line)
    log.info("\ntry next\n%s", _next_steps(run))


def _write_original(run: Run, project: Project) -> None:
    """The held-out recording as the codec was given it, beside its reconstruction."""
    data = project.data
    blocks = sound.blocks(Path(_held_out(run)["source"]), data.sample_rate, data.channels)
    sound.write(_original(run), blocks, data.sample_rate)


def _original(run: Run) -> Path:
    return run.audio / RECONSTRUCTION / "original.wav"


def _next_steps(run: Run) -> str:
    where = shlex.quote(str(run.root))
    lines = [
        ("more of it", f"latentdiff sample --run {where} --n 8 --seconds 20 --seed 7 --name more"),
        ("", f"latentdiff decode --run {where} --name more"),
        ("your own", "latentdiff quickstart my/recordings --run runs/mine"),
        ("in earnest", "latentdiff config init mine.yaml --preset laptop"),
    ]
    return "\n".join(f"  {what:<11} {command}" for what, command in lines)
