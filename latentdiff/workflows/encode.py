"""`encode`: audio + codec -> a latent store, with its statistics and what conditions it.

Shapes: D latent dimensions, K mel bands, N audio samples, T latent frames.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from latentdiff import audio as sound
from latentdiff import runs, streaming
from latentdiff.conditioning import MelConfig, mel_blocks, resample_blocks
from latentdiff.errors import UserError
from latentdiff.evaluation.sound import decibels
from latentdiff.latents.statistics import fit
from latentdiff.latents.store import (
    MANIFEST,
    STATISTICS,
    Entry,
    LatentStore,
    array_writer,
    read_array,
)
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec
from latentdiff.tracking import progress
from latentdiff.training.fabric import pick_device
from latentdiff.workflows.encode_jobs import Job, Jobs, find_jobs
from latentdiff.workflows.project import Project, begin
from latentdiff.workflows.reconstruct import check_reconstruction

log = logging.getLogger(__name__)

PROGRESS = "encoded.jsonl"
"""A line for each file that is whole; an interrupted run continues after them."""

_BLOCK = 1 << 14
"""Frames read at a time for the statistics."""

# These change how encoding runs or what training makes of it, and none of the files.
_HARMLESS = ("latents.keep", "latents.chunk_seconds", "latents.batch")


def encode(
    run: Run,
    project: Project,
    *,
    rave: Path | None = None,
    ckpt: str | None = None,
    audio: list[Path] | tuple[Path, ...] = (),
    dataset: Path | None = None,
    check: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Encode the dataset's files, or those in `audio`, into `run.latents`.

    `rave`: where the codec is; None: the run's own. `ckpt`: `last` (None), `best` or a path.
    `check`: decode some held-out files back and tell how near they come.
    Returns "path: reason" for every file that could not be used. Raises UserError where codec or
    audio are missing or unusable, or where nothing could be encoded.
    """
    jobs = find_jobs(run, project, audio, dataset)
    codec = _open_codec(rave or run.rave, ckpt, pick_device(project.device))
    if dry_run:
        _announce(jobs, codec, run.latents)
        log.info("dry run: nothing was written")
        return jobs.losses
    stage = begin(
        run,
        project,
        run.latents,
        "encode",
        sections=["latents"],
        inputs=_inputs(codec, jobs, project.condition.mel),
        overwrite=overwrite,
        harmless=_HARMLESS,
    )
    losses = jobs.losses
    if stage is not None:
        with stage:
            _announce(jobs, codec, run.latents)
            losses = _Encoding(stage, codec, project, jobs).run()
    if check:
        check_reconstruction(codec, LatentStore.open(run.latents), project.latents)
    return losses


def _open_codec(path: Path, ckpt: str | None, device: str) -> RaveCodec:
    info = runs.read_run(path) if path.is_dir() else None
    if info is not None and info["status"] != "done":
        log.warning("%s: its training is not finished (%s)", path, info["status"])
    return RaveCodec.open(path, ckpt, device)


def _inputs(codec: RaveCodec, jobs: Jobs, mel: MelConfig) -> dict[str, Input]:
    settings = json.dumps(mel.model_dump(mode="json"), sort_keys=True)
    return {
        "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        "audio": jobs.source,
        "condition.mel": Input(settings, hashlib.sha256(settings.encode()).hexdigest()),
    }


def _announce(jobs: Jobs, codec: Codec, directory: Path) -> None:
    seconds = sum(job.seconds for job in jobs.jobs)
    frames = seconds * codec.sample_rate / codec.hop
    size = frames * codec.latent_dim * 4 / 1e6
    log.info(
        "%d files, %.1f s of audio -> about %.0f frames of %d latents (%.1f MB) in %s",
        len({job.path for job in jobs.jobs}),
        seconds,
        frames,
        codec.latent_dim,
        size,
        directory,
    )
    if size * 1e6 > runs.free_bytes(directory):
        raise UserError(
            f"the disk of {directory} is too full",
            why=f"the latents take about {size / 1e3:.1f} GB",
            do_this="free some space or choose another --run.",
        )


class _Encoding:
    """One pass over all files that are not whole yet."""

    def __init__(self, stage: Stage, codec: Codec, project: Project, jobs: Jobs) -> None:
        self._stage = stage
        self._root = stage.directory
        self._codec = codec
        self._settings = project.latents
        self._mel = project.condition.mel
        self._keep = project.latents.keep
        self._jobs = jobs.jobs
        self._losses = list(jobs.losses)
        self._done: dict[str, dict[str, Any]] = {}

    def run(self) -> list[str]:
        """Encode, then manifest and statistics; "path: reason" of every loss."""
        self._continue()
        todo = [job for job in self._jobs if job.key not in self._done]
        total = round(sum(job.seconds for job in self._jobs), 1)
        initial = round(total - sum(job.seconds for job in todo), 1)
        try:
            with (
                progress(total=total, initial=initial, unit="s", what="encode") as bar,
                closing(self._rows(todo)) as rows,
            ):
                for row, seconds in rows:
                    bar.update(seconds)
                    if row is not None:
                        self._done[row["key"]] = row
                        self._remember(row)
        finally:
            for job in todo:
                job.close()
        self._losses += [f"{job.path}: {job.failed}" for job in todo if job.failed]
        return self._finish()

    def _continue(self) -> None:
        """Take over the files that an interrupted run has finished."""
        path = self._root / PROGRESS
        if not path.exists():
            return
        known = {job.key: job for job in self._jobs}
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break  # the line that a kill cut in two
            job = known.get(row["key"])
            files = [self._root / row[name] for name in ("mean", "std", "mel") if row[name]]
            if job and row["identity"] == job.identity() and all(f.is_file() for f in files):
                self._done[row["key"]] = row
        log.info("continuing: %d of %d files are whole", len(self._done), len(self._jobs))
        runs.write_jsonl(path, list(self._done.values()))

    def _remember(self, row: dict[str, Any]) -> None:
        with open(self._root / PROGRESS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _rows(self, todo: list[Job]) -> Generator[tuple[dict[str, Any] | None, float], None, None]:
        """Seconds of audio as they are done; with them the row of a file that became whole."""
        open_files: dict[Job, _Output] = {}
        sources = ((job, job.blocks(self._codec)) for job in todo)
        pieces = streaming.encode_files(
            self._codec,
            sources,  # type: ignore[arg-type]
            chunk_seconds=self._settings.chunk_seconds,
            batch=self._settings.batch,
        )
        with ExitStack() as cleanup:
            for piece in pieces:
                job = piece.key
                assert isinstance(job, Job)
                if job not in open_files:
                    output = _Output(self._root, job, self._settings.keep_std)
                    open_files[job] = cleanup.enter_context(output)
                seconds = piece.size / self._codec.sample_rate
                row = None
                open_files[job].append(*piece.arrays)
                if piece.last:
                    output = open_files.pop(job)
                    row = None if job.failed else self._whole(job, output)
                    output.discard()
                yield row, seconds

    def _whole(self, job: Job, output: _Output) -> dict[str, Any] | None:
        """The row of a file whose latents are complete; its mel is made now."""
        mel = f"mel/{job.stem}.npy"
        try:
            with array_writer(self._root / mel) as writer:
                for features in self._features(job, output.frames):
                    writer.append(features)
        except sound.AudioError as error:
            job.failed = error.why
            return None
        output.finish()
        entry = Entry(
            key=job.key,
            source=str(job.path),
            split=job.split,
            samples=job.samples,
            frames=output.frames,
            mean=output.mean,
            std=output.std,
            mel=mel,
            label=job.label,
            start=job.start,
        )
        level = {"squares": job.level.squares, "count": job.level.count, "peak": job.level.peak}
        spread = output.posterior()
        return {**entry.row(), "identity": job.identity(), "level": level, "posterior": spread}

    def _features(self, job: Job, frames: int) -> Iterator[np.ndarray]:
        """The mel spectrogram at the pace of the latents, in blocks [K, t]."""
        mel = mel_blocks(job.slice(self._mel.sample_rate, 1), self._mel)
        seconds = self._codec.hop / self._codec.sample_rate
        return resample_blocks(mel, frames, seconds * self._mel.sample_rate / self._mel.hop)

    def _finish(self) -> list[str]:
        """Manifest, statistics and facts."""
        rows = [self._done[job.key] for job in self._jobs if job.key in self._done]
        if not rows:
            listed = "\n    ".join(self._losses[:5])
            raise UserError("nothing could be encoded", why="\n    " + listed)
        runs.write_jsonl(self._root / MANIFEST, [_public(row) for row in rows])
        training = [row for row in rows if row["split"] == "train"] or rows
        statistics = fit(self._blocks(training))
        statistics.save(self._root / STATISTICS)
        facts = self._facts(rows, training)
        self._stage.record(**facts)
        log.info(
            "%(files)d files (%(validation)d held out, whole or their end), %(seconds).1f s, "
            "%(frames)d frames; level of the training audio: %(level_db)s dBFS",
            facts,
        )
        try:
            log.info("%s", statistics.describe(self._keep))
        except UserError as error:
            log.warning("%s", error)
        (self._root / PROGRESS).unlink()
        log.info("latents: %s", self._root)
        return self._losses

    def _blocks(self, rows: list[dict[str, Any]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Means and, in place of each frame's std, the file's RMS of it: the sums are the same."""
        for row in rows:
            spread = np.array(row["posterior"])[:, None]
            for start in range(0, row["frames"], _BLOCK):
                # Mapped anew for each block: pages once read would count as ours to the end.
                block = read_array(self._root / row["mean"])[:, start : start + _BLOCK]
                yield block, np.broadcast_to(spread, block.shape)

    def _facts(self, rows: list[dict[str, Any]], training: list[dict[str, Any]]) -> dict[str, Any]:
        codec = self._codec
        squares = sum(row["level"]["squares"] for row in training)
        count = sum(row["level"]["count"] for row in training)
        frames = sum(row["frames"] for row in rows)
        samples = sum(row["samples"] for row in rows)
        return {
            "sample_rate": codec.sample_rate,
            "hop": codec.hop,
            "latent_dim": codec.latent_dim,
            "channels": codec.channels,
            "files": len({row["source"] for row in rows}),
            "validation": sum(row["split"] == "validation" for row in rows),
            "skipped": len(self._losses),
            "frames": frames,
            "seconds": samples / codec.sample_rate,
            "level_db": _db(squares, count),
        }


class _Output:
    """The arrays of one file on their way to disk; gone unless `finish` was called."""

    def __init__(self, root: Path, job: Job, keep_std: bool) -> None:
        self.mean = f"mean/{job.stem}.npy"
        self.std = f"std/{job.stem}.npy" if keep_std else None
        self._root = root
        self._squares: np.ndarray | float = 0.0

    def __enter__(self) -> _Output:
        self._stack = ExitStack()
        self._means = self._stack.enter_context(array_writer(self._root / self.mean))
        self._stds = self.std and self._stack.enter_context(array_writer(self._root / self.std))
        return self

    @property
    def frames(self) -> int:
        return self._means.frames

    def append(self, mean: np.ndarray, std: np.ndarray) -> None:
        self._means.append(mean)
        if self._stds:
            self._stds.append(std)
        self._squares = self._squares + np.square(std, dtype=np.float64).sum(axis=1)

    def posterior(self) -> list[float]:
        """[D], RMS over the frames of the posterior's standard deviation."""
        return np.sqrt(self._squares / self.frames).tolist()

    def finish(self) -> None:
        self._stack.close()

    def discard(self) -> None:
        """Remove what has not been finished; nothing where all has been."""
        stack = self._stack.pop_all()
        stack.__exit__(_Discarded, _Discarded(), None)

    def __exit__(self, *_: object) -> None:
        self.discard()


class _Discarded(Exception):
    """Tells the writers of a file that is not wanted to remove it."""


def _public(row: dict[str, Any]) -> dict[str, Any]:
    """The manifest's line: what was kept to continue and to sum up is left out."""
    level_db = _db(row["level"]["squares"], row["level"]["count"])
    private = ("identity", "level", "posterior")
    return {k: v for k, v in row.items() if k not in private} | {"level_db": level_db}


def _db(squares: float, count: int) -> float | None:
    """RMS in dBFS as JSON can hold it: None for digital silence."""
    return round(decibels(squares / count), 2) if squares > 0 else None
