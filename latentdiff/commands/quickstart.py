"""`quickstart`: every step on a small scale, by the commands that a user would type."""

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
from typing import TYPE_CHECKING

from latentdiff import audio as sound
from latentdiff import child, runs, synth
from latentdiff.commands.presets import preset_path
from latentdiff.commands.quickstart_form import OnsetPeriodicity, onset_periodicity
from latentdiff.config import Values, differences
from latentdiff.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SKIPPED, UserError
from latentdiff.evaluation.sound import SILENT_DB, LevelMeter
from latentdiff.latents.store import MANIFEST
from latentdiff.model.minutes import divide
from latentdiff.model.project import Project, resolve
from latentdiff.runs import Run
from latentdiff.training.verdict import NO_SKILL

if TYPE_CHECKING:
    from latentdiff.model.evaluate.summary import FormSummary

log = logging.getLogger(__name__)

NAME = "quickstart"
"""Name of the preset, and of the folder below samples/ and audio/."""
RECONSTRUCTION = "reconstruction"
MUSIC = "music"
"""Folder of the run that holds the synthesised music."""
PIECES = 12
PIECE_SECONDS = 24.0
CLIPS = 4
CLIP_SECONDS = 6.0
SCORED, SCORED_SECONDS = 32, 10.0
"""Samples that are scored, and their length: enough for scores that mean something."""

FEW_SECONDS = 60.0
"""Warn if there is less audio than this."""
TOLERANCE_DB = 12.0
"""Warn of a clip whose level is farther from the training audio's; of a reconstruction, by half."""


@dataclass(frozen=True)
class QuickstartSummary:
    """The outcome in numbers. Levels are RMS in dBFS; -inf is digital silence."""

    training: float
    """Level of the training audio."""
    original: float
    """Level of the held-out recording."""
    reconstruction: tuple[str, float]
    """File name and level of that recording after encoding and decoding."""
    clips: dict[str, float]
    """File name -> level of each generated clip."""
    skill: float
    """1 - loss / loss of a model that knows only each channel's variance; on held-out files."""
    beat: OnsetPeriodicity
    form: FormSummary


def quickstart(
    run: Run,
    *,
    audio_dir: Path | None = None,
    settings: Sequence[str] = (),
    minutes: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Run the whole chain on the recordings in `audio_dir`, or on synthesised music.

    `settings`: KEY=VALUE words that override the preset. `minutes`: about how long all of it may
    take; None: as long as the preset's steps take. Called again, every stage continues where
    it stopped. Returns a line for each command that skipped files. Raises UserError if a command
    fails, and KeyboardInterrupt, after it has ended properly, if one is interrupted.
    """
    if minutes is not None:
        budget = divide(minutes)
        settings = [*budget.settings(), *settings]
        log.info("of %g minutes: %s", minutes, budget)
    options = ["--seed", str(seed)] if seed is not None else []
    options += ["--device", device] if device else []
    project = resolve(None, preset_path(NAME), settings, {"seed": seed, "device": device})
    music = audio_dir or run.root / MUSIC
    words = [*(["--overwrite"] if overwrite else []), *options, *settings]
    first, *others = _stages(music)
    if dry_run:
        plan = [_command(run, first, words, config=True)]
        plan += [_command(run, stage, words) for stage in others]
        _show_plan(plan, music, synthesised=audio_dir is None)
        return []
    if audio_dir is None:
        write_music(music, project.data.sample_rate, project.seed, overwrite)
    else:
        _warn_of_amount(sound.find([audio_dir]), project)
    started = time.monotonic()
    skipped = _call(_command(run, first, words, config=True))
    again = not _remembers(run, project)
    for stage in others:
        skipped += _call(_command(run, stage, words, config=again))
    skipped += _call(_command(run, _reconstruct(run), words, config=again))
    _write_original(run, project)
    _conclude(run, _measure(run), time.monotonic() - started)
    return skipped


def write_music(folder: Path, sample_rate: int, seed: int, overwrite: bool = False) -> None:
    """Write the pieces that the folder lacks (`overwrite`: all pieces) as 16-bit wav."""
    runs.make_directory(folder)
    runs.remove_partial(folder)
    written = 0
    for index in range(PIECES):
        path = folder / f"piece-{index + 1:02d}-{synth.STYLES[index % len(synth.STYLES)].name}.wav"
        if overwrite or not path.exists():
            piece = synth.compose(seed, index, sample_rate, seconds=PIECE_SECONDS)
            sound.write(path, piece, sample_rate)
            written += 1
    if written:
        log.info("wrote %d pieces of music to train on: %s", written, folder)


def _stages(music: Path) -> list[list[str]]:
    """The commands of the chain and their own options."""
    return [
        ["preprocess", "--audio", str(music)],
        ["train-rave"],
        ["encode", "--check"],
        ["train-diffusion"],
        ["sample", "--n", str(CLIPS), "--seconds", f"{CLIP_SECONDS:g}", "--name", NAME],
        ["decode", "--name", NAME],
        ["evaluate", "--n", str(SCORED), "--seconds", f"{SCORED_SECONDS:g}"],
    ]


def _reconstruct(run: Run) -> list[str]:
    """The command that decodes the latents of one held-out file."""
    latents = run.latents / _held_out(run)["mean"]
    return ["decode", "--latents", str(latents), "--name", RECONSTRUCTION]


def _command(
    run: Run, stage: Sequence[str], words: Sequence[str], config: bool = False
) -> list[str]:
    """A whole command line; `config`: with `-c`."""
    level = log.getEffectiveLevel()
    verbosity = ["-v"] if level < logging.INFO else ["-q"] if level > logging.INFO else []
    name, *options = stage
    common = ["--run", str(run.root), *(["-c", str(preset_path(NAME))] if config else [])]
    return ["latentdiff", name, *common, *verbosity, *options, *words]


def _remembers(run: Run, project: Project) -> bool:
    """Whether the run's own config.yaml makes `-c` unnecessary after the first command.

    It does not if that command had nothing to do in a run that was made with another config.
    """
    there = resolve(run).model_dump(mode="json")
    changed = differences(there, project.model_dump(mode="json"))
    # The first command adds where the recordings are; no other command reads that.
    return all(line.startswith("data.audio:") for line in changed)


def _call(words: list[str]) -> list[str]:
    """Run one command with our output; returns a line if it skipped files."""
    line = shlex.join(words)
    log.info("\n$ %s", line)
    code = child.wait([sys.executable, "-m", *words])
    if code == EXIT_OK:
        return []
    if code == EXIT_SKIPPED:
        return [f"{line}: listed in its output above"]
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    raise UserError(
        f"quickstart stopped: `latentdiff {words[1]}` "
        + (f"was ended by signal {-code}" if code < 0 else f"failed (exit code {code})"),
        why="the system may have run out of memory"
        if code == -signal.SIGKILL
        else "see its own message above",
        do_this="fix that and run the same command again: it continues where it stopped.",
    )


def _show_plan(commands: list[list[str]], music: Path, synthesised: bool) -> None:
    """`--dry-run`: log the commands that would run."""
    if synthesised:
        minutes = PIECES * PIECE_SECONDS / 60
        log.info("would write %d pieces (%.0f min) of music into %s", PIECES, minutes, music)
    else:
        search = sound.find([music])
        log.info("would train on %d files in %s", len(search.files), music)
    log.info("would run:")
    for words in commands:
        log.info("$ %s", shlex.join(words))


def _warn_of_amount(found: sound.FoundAudio, project: Project) -> None:
    """Warn if there is too little audio to train on, or more than this short training uses."""
    seconds = 0.0
    for _, path in found.files:
        with suppress(UserError):  # preprocess lists it
            seconds += sound.probe(path).seconds
    rave = project.rave
    used = (rave.steps or math.inf) * rave.batch * rave.n_signal / project.data.sample_rate
    if seconds < FEW_SECONDS:
        log.warning(
            "only %.0f s of audio: the models will overfit, or learn nothing; use some minutes",
            seconds,
        )
    elif seconds > used:
        log.warning(
            "%.1f h of audio, of which this short training uses %.1f h at most; to train on all of "
            "it, start from `latentdiff config init mine.yaml --preset laptop` (or gpu)",
            seconds / 3600,
            used / 3600,
        )


def _held_out(run: Run) -> Values:
    """The manifest row of the shortest held-out file."""
    rows = runs.read_jsonl(run.latents / MANIFEST)
    held_out = [row for row in rows if row.get("split") == "validation"]
    return min(held_out or rows, key=lambda row: row["frames"])


def _measure(run: Run) -> QuickstartSummary:
    """Levels of the audio that went in and came out, and the skill of the diffusion model."""
    # Here, as the command itself needs no torch.
    from latentdiff.commands.evaluate import FOLDER, RESULTS
    from latentdiff.model.evaluate.summary import summary

    encoded = runs.require_done(run.latents, "encode", "encode").result
    diffusion = runs.require_done(run.diffusion, "train-diffusion", "train-diffusion").result
    (reconstruction,) = _levels(run.audio / RECONSTRUCTION).items()
    clips = _levels(run.audio / NAME)
    original = LevelMeter()
    for block in sound.blocks(_original(run)):
        original.add(block)
    return QuickstartSummary(
        training=encoded["level_db"],
        original=original.db,
        reconstruction=reconstruction,
        clips=clips,
        skill=diffusion["skill"],
        beat=onset_periodicity(
            [Path(row["source"]) for row in runs.read_jsonl(run.latents / MANIFEST)],
            run.audio / RECONSTRUCTION / reconstruction[0],
            [run.audio / NAME / name for name in clips],
        ),
        form=summary(run.root / FOLDER / RESULTS),
    )


def _levels(folder: Path) -> dict[str, float]:
    """File name -> level in dBFS of each file that `decode` wrote; -inf: digital silence."""
    rows = runs.read_jsonl(folder / MANIFEST)
    levels = {row["file"]: row["level_db"] for row in rows}
    return {name: -math.inf if level is None else level for name, level in levels.items()}


def verdicts(summary: QuickstartSummary) -> list[str]:
    """A sentence for each problem; empty if all went well."""
    problems = []
    gain = summary.reconstruction[1] - summary.original
    if summary.reconstruction[1] < SILENT_DB:
        problems.append("the reconstruction is silent: the codec has learned nothing")
    elif abs(gain) > TOLERANCE_DB / 2:
        problems.append(
            f"the reconstruction is {gain:+.1f} dB off its original: the codec has not learned "
            "this audio well"
        )
    for name, value in summary.clips.items():
        if value < SILENT_DB:
            problems.append(f"{name} is silent")
        elif abs(value - summary.training) > TOLERANCE_DB:
            problems.append(f"{name} is {value - summary.training:+.1f} dB off the training audio")
    if summary.skill < NO_SKILL:
        problems.append(
            f"diffusion skill {summary.skill:.3f}: the diffusion model has learned only the "
            "variance of each channel; its clips have the codec's timbre, but no structure"
        )
    problems += [one for one in (summary.beat.problem, summary.form.problem) if one]
    return problems


def _conclude(run: Run, summary: QuickstartSummary, seconds: float) -> None:
    """Log where the audio is, whether it is any good, and what to try next."""
    audio = run.audio
    log.info("\nquickstart is done (%.1f minutes)", seconds / 60)
    log.info("\nlisten to")
    for name, value in summary.clips.items():
        log.info("  %6.1f dBFS  %s", value, audio / NAME / name)
    log.info("and to a held-out recording, before and after the codec")
    log.info("  %6.1f dBFS  %s", summary.original, _original(run))
    name, value = summary.reconstruction
    log.info("  %6.1f dBFS  %s", value, audio / RECONSTRUCTION / name)
    log.info("training audio: %.1f dBFS; diffusion skill: %.2f", summary.training, summary.skill)
    log.info("%s", summary.beat)
    log.info("%s", summary.form)
    for line in verdicts(summary):
        log.warning("%s", line)
    log.info("\ntry next\n%s", _next_steps(run))


def _write_original(run: Run, project: Project) -> None:
    """Write the held-out recording as the codec receives it, and its reconstruction."""
    data = project.data
    blocks = sound.blocks(Path(_held_out(run)["source"]), data.sample_rate, data.channels)
    sound.write(_original(run), blocks, data.sample_rate)


def _original(run: Run) -> Path:
    return run.audio / RECONSTRUCTION / "original.wav"


def _next_steps(run: Run) -> str:
    where = shlex.quote(str(run.root))
    lines = [
        ("more clips", f"latentdiff sample --run {where} --n 8 --seconds 20 --seed 7 --name more"),
        ("", f"latentdiff decode --run {where} --name more"),
        ("a tempo", f"latentdiff sample --run {where} --bpm 100 --seconds 20 --name slow"),
        ("your audio", "latentdiff quickstart my/recordings --run runs/mine"),
        ("full size", "latentdiff config init mine.yaml --preset laptop"),
    ]
    return "\n".join(f"  {what:<11} {command}" for what, command in lines)
