"""`encode`: audio + codec -> a latent store, with its statistics and what conditions it.

Shapes: D latent dimensions, T latent frames.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latentdiff import runs
from latentdiff.commands.encode_jobs import Job, Jobs, find_jobs
from latentdiff.commands.encode_pass import PRIVATE, FilesPass, Row, share_out
from latentdiff.conditions.settings import MelConfig
from latentdiff.errors import EXIT_FAILURE, UserError
from latentdiff.evaluation.reconstruction import check_reconstruction
from latentdiff.evaluation.sound import decibels
from latentdiff.latents.statistics import LatentStatistics, StatisticsAccumulator
from latentdiff.latents.store import MANIFEST, STATISTICS, LatentStore, read_array
from latentdiff.model.project import Project, begin
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec
from latentdiff.tracking import progress
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.process_group import ProcessGroup

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS = "encoded.jsonl"
"""A line for each file that is whole; an interrupted run continues after them. Every process that
does not lead has a file of its own beside it, with its number in the name."""

_BLOCK = 1 << 14
"""Frames read at a time for the statistics."""

# These change how encoding runs or what training makes of it, and none of the files.
_HARMLESS = ("latents.keep", "latents.scaling", "latents.chunk_seconds", "latents.batch")


def encode(
    run: Run,
    project: Project,
    *,
    rave: Path | None = None,
    ckpt: str | None = None,
    audio: list[Path] | tuple[Path, ...] = (),
    dataset: Path | None = None,
    devices: str | int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    check: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> list[str]:
    """Encode the dataset's files, or those in `audio`, into `run.latents`.

    `rave`: where the codec is; None: the run's own. `ckpt`: `last` (None), `best` or a path.
    `devices`, `num_nodes`, `strategy`: see `Launch`; each process encodes its share of the files,
    and the first alone holds the stage and speaks. `check`: decode some held-out files back and
    tell how near they come. Returns "path: reason" for every file that could not be used. Raises
    UserError where codec or audio are missing or unusable, or where nothing could be encoded.
    """
    fabric = make_fabric(Launch(project.device, devices, num_nodes, strategy))
    jobs = find_jobs(run, project, audio, dataset)
    codec = _open_codec(rave or run.rave, ckpt, str(fabric.device))
    if dry_run:
        _announce(jobs, codec, run.latents)
        log.info("dry run: nothing was written")
        return jobs.losses
    # From here on once in each process.
    fabric.launch()
    team = ProcessGroup(fabric)
    losses = jobs.losses
    with ExitStack() as stack:
        stage = team.lead(lambda: _open_stage(stack, run, project, codec, jobs, overwrite))
        # None too where this process does not lead.
        if team.gather(stage is not None)[0]:
            losses = _Encoding(run.latents, stage, codec, project, jobs, team).run()
    if not team.leads:
        return []
    if check:
        check_reconstruction(codec, LatentStore.open(run.latents), project.latents)
    return losses


def _open_codec(path: Path, ckpt: str | None, device: str) -> RaveCodec:
    info = runs.read_run(path) if path.is_dir() else None
    if info is not None and not info.is_done:
        log.warning("%s: its training is not finished (%s)", path, info.status)
    return RaveCodec.open(path, ckpt, device)


def _open_stage(
    stack: ExitStack, run: Run, project: Project, codec: RaveCodec, jobs: Jobs, overwrite: bool
) -> Stage | None:
    """The stage, entered; None where it is done."""
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
    if stage is None:
        return None
    stack.enter_context(stage)
    _announce(jobs, codec, run.latents)
    return stage


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
    """All files that are not whole yet, each process its share of them."""

    def __init__(
        self,
        root: Path,
        stage: Stage | None,
        codec: Codec,
        project: Project,
        jobs: Jobs,
        team: ProcessGroup,
    ) -> None:
        """`stage`: the leader's."""
        self._root, self._stage, self._team = root, stage, team
        self._codec = codec
        self._pass = FilesPass(root, codec, project.latents, project.condition.mel)
        self._keep = project.latents.keep
        self._jobs = jobs.jobs
        self._losses = list(jobs.losses)
        self._done: dict[str, Row] = {}

    def run(self) -> list[str]:
        """Encode, then manifest and statistics; "path: reason" of every loss."""
        team = self._team
        team.lead(self._continue)
        self._done = team.gather(self._done)[0]
        todo = [job for job in self._jobs if job.key not in self._done]
        mine = share_out(todo, team.size, self._pass.together)[team.rank]
        for rows, losses in self._everywhere(lambda: self._encode(mine)):
            self._done.update({row["key"]: row for row in rows})
            self._losses += losses
        rows = [self._done[job.key] for job in self._jobs if job.key in self._done]
        training = [row for row in rows if row["split"] == "train"] or rows
        sums = self._everywhere(lambda: self._sum_up(training[team.share(len(training))]))
        # The others wait for it: they fail if it fails.
        team.lead(lambda: self._finish(rows, training, sums))
        return self._losses

    def _everywhere(self, work: Callable[[], T]) -> list[T]:
        """What each process makes of `work`. Where one fails, the leader raises its error when all
        have ended, and the others leave without a word."""
        result, error = None, None
        try:
            result = work()
        except UserError as caught:
            error = caught
        outcomes = self._team.gather((result, error))
        errors = [error for _, error in outcomes if error is not None]
        if errors and self._team.leads:
            raise errors[0]
        if errors:
            raise SystemExit(EXIT_FAILURE)
        return [result for result, _ in outcomes]  # type: ignore[misc]

    def _continue(self) -> None:
        """Take over the files that an interrupted run has finished, in however many processes."""
        paths = self._progress_files()
        if not paths:
            return
        known = {job.key: job for job in self._jobs}
        for path in paths:
            for row in _lines(path):
                job = known.get(row["key"])
                files = [self._root / row[name] for name in ("mean", "std", "mel") if row[name]]
                if job and row["identity"] == job.identity() and all(f.is_file() for f in files):
                    self._done[row["key"]] = row
        log.info("continuing: %d of %d files are whole", len(self._done), len(self._jobs))
        runs.write_jsonl(self._root / PROGRESS, list(self._done.values()))
        for path in paths:
            if path.name != PROGRESS:
                path.unlink()

    def _progress_files(self) -> list[Path]:
        first = self._root / PROGRESS
        others = sorted(self._root.glob(f"{first.stem}.*{first.suffix}"))
        return [path for path in (first, *others) if path.exists()]

    def _encode(self, mine: list[Job]) -> tuple[list[Row], list[str]]:
        """The rows of these files, and "path: reason" of those that could not be used."""
        done, parent = [], os.getppid()
        total = round(sum(job.seconds for job in mine), 1)
        try:
            with (
                progress(total=total, unit="s", what="encode") as bar,
                closing(self._pass.rows(mine)) as rows,
            ):
                for row, seconds in rows:
                    bar.update(seconds)
                    if row is not None:
                        done.append(row)
                        self._remember(row)
                    if not self._team.leads and os.getppid() != parent:
                        # Whoever started this process is gone: the next run must find nobody here.
                        raise KeyboardInterrupt
        finally:
            for job in mine:
                job.close()
        return done, [f"{job.path}: {job.failed}" for job in mine if job.failed]

    def _remember(self, row: Row) -> None:
        first = self._root / PROGRESS
        path = first if self._team.leads else first.with_suffix(f".{self._team.rank}.jsonl")
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _sum_up(self, rows: list[Row]) -> StatisticsAccumulator:
        sums = StatisticsAccumulator()
        for block, spread in self._blocks(rows):
            sums.update(block, spread)
        return sums

    def _finish(
        self, rows: list[Row], training: list[Row], sums: list[StatisticsAccumulator]
    ) -> None:
        """Manifest, statistics and facts; of the leader, which holds the stage."""
        stage = self._stage
        assert stage is not None
        if not rows:
            listed = "\n    ".join(self._losses[:5])
            raise UserError("nothing could be encoded", why="\n    " + listed)
        runs.write_jsonl(self._root / MANIFEST, [_public(row) for row in rows])
        statistics = _merged(sums)
        statistics.save(self._root / STATISTICS)
        facts = self._facts(rows, training)
        stage.record(**facts)
        log.info(
            "%(files)d files (%(validation)d held out, whole or their end), %(seconds).1f s, "
            "%(frames)d frames; level of the training audio: %(level_db)s dBFS",
            facts,
        )
        try:
            log.info("%s", statistics.describe(self._keep))
        except UserError as error:
            log.warning("%s", error)
        for path in self._progress_files():
            path.unlink()
        log.info("latents: %s", self._root)

    def _blocks(self, rows: list[Row]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Means and, in place of each frame's std, the file's RMS of it: the sums are the same."""
        for row in rows:
            spread = np.array(row["posterior"])[:, None]
            for start in range(0, row["frames"], _BLOCK):
                # Mapped anew for each block: pages once read would count as ours to the end.
                block = read_array(self._root / row["mean"])[:, start : start + _BLOCK]
                yield block, np.broadcast_to(spread, block.shape)

    def _facts(self, rows: list[Row], training: list[Row]) -> dict[str, Any]:
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


def _merged(sums: list[StatisticsAccumulator]) -> LatentStatistics:
    whole = StatisticsAccumulator()
    for part in sums:
        whole.merge(part)
    return whole.finish()


def _lines(path: Path) -> Iterator[Row]:
    """The rows of a progress file, up to one that a kill cut in two."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _public(row: Row) -> Row:
    """The manifest's line: what was kept to continue and to sum up is left out."""
    level_db = _db(row["level"]["squares"], row["level"]["count"])
    return {k: v for k, v in row.items() if k not in PRIVATE} | {"level_db": level_db}


def _db(squares: float, count: int) -> float | None:
    """RMS in dBFS as JSON can hold it: None for digital silence."""
    return round(decibels(squares / count), 2) if squares > 0 else None
