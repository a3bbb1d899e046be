"""`encode`: audio + codec -> a latent store, with its statistics and condition features.

Shapes: D latent dimensions, T latent frames.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff import runs
from latentdiff.audio import file_stems
from latentdiff.commands.encode_addition import HARMLESS, Addition
from latentdiff.commands.encode_features import FeatureWriter
from latentdiff.commands.encode_jobs import EncodeJob, EncodeJobs, find_jobs
from latentdiff.commands.encode_pass import FilesPass, share_out
from latentdiff.commands.encode_progress import EncodedFile, ProgressLog
from latentdiff.commands.health import DataHealth, examine
from latentdiff.errors import UserError
from latentdiff.evaluation.reconstruction import check_reconstruction
from latentdiff.evaluation.sound import LevelMeter, json_db
from latentdiff.latents.arrays import read_array
from latentdiff.latents.statistics import LatentStatistics, StatisticsAccumulator
from latentdiff.latents.store import MANIFEST, STATISTICS, LatentStore
from latentdiff.model.condition_data import feature_inputs, missing_features, stored_kinds
from latentdiff.model.project import Project, begin
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Input, Run, Stage
from latentdiff.specs import Codec, frame_rate
from latentdiff.tracking import progress
from latentdiff.training.fabric import Launch, make_fabric
from latentdiff.training.process_group import ProcessGroup

log = logging.getLogger(__name__)

_BLOCK = 1 << 14
"""Frames read at a time for the statistics."""


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

    A finished store that lacks condition kinds of the settings gets their features; its latents
    stay as they are.

    `rave`: where the codec is; None: the run's own. `ckpt`: `last` (None), `best` or a path.
    `devices`, `num_nodes`, `strategy`: see `Launch`; each process encodes its share of the files,
    and only the first one holds the stage and logs. `check`: decode some held-out files and compare
    them with the recordings. Returns "path: reason" for every file that was skipped. Raises
    UserError if codec or audio are missing or unusable, or nothing could be encoded.
    """
    fabric = make_fabric(Launch(project.device, devices, num_nodes, strategy))
    jobs = find_jobs(run, project, audio, dataset)
    codec = _open_codec(rave or run.rave, ckpt, str(fabric.device))
    inputs = _inputs(codec, jobs, project)
    missing = None if overwrite else missing_features(run.latents, project)
    addition = None if missing is None else Addition(run, project, jobs, codec, inputs, missing)
    if dry_run:
        if addition is None:
            _log_plan(jobs, codec, run.latents)
        else:
            addition.plan()
        log.info("dry run: nothing was written")
        return jobs.skipped
    # From here on this runs in every process.
    fabric.launch()
    group = ProcessGroup(fabric)
    if addition is None:
        skipped = _encode_files(run, project, codec, jobs, inputs, group, overwrite)
    else:
        addition.run(group)
        skipped = jobs.skipped
    if not group.leads:
        return []
    if check:
        check_reconstruction(codec, LatentStore.open(run.latents), project.latents)
    return skipped


def _open_codec(path: Path, ckpt: str | None, device: str) -> RaveCodec:
    info = runs.read_run(path) if path.is_dir() else None
    if info is not None and not info.is_done:
        log.warning("%s: training has not finished (%s)", path, info.status)
    return RaveCodec.open(path, ckpt, device)


def _encode_files(
    run: Run,
    project: Project,
    codec: RaveCodec,
    jobs: EncodeJobs,
    inputs: Mapping[str, Input],
    group: ProcessGroup,
    overwrite: bool,
) -> list[str]:
    """Encode all files, unless that is already done; "path: reason" of every file skipped."""

    def open_stage() -> Stage | None:
        stage = begin(
            run,
            project,
            run.latents,
            "encode",
            sections=["latents"],
            inputs=inputs,
            overwrite=overwrite,
            harmless=HARMLESS,
        )
        if stage is None:
            return None
        stack.enter_context(stage)
        _log_plan(jobs, codec, run.latents)
        return stage

    with ExitStack() as stack:
        stage = group.lead(open_stage)
        # Only the leader's counts: in the others it is None even if there is work to do.
        if group.gather(stage is not None)[0]:
            return _Encoding(run.latents, stage, codec, project, jobs, group).run()
    return jobs.skipped


def _inputs(codec: RaveCodec, jobs: EncodeJobs, project: Project) -> dict[str, Input]:
    return {
        "codec": Input(str(codec.origin.path.resolve()), codec.fingerprint),
        "audio": jobs.source,
        **feature_inputs(project),
    }


def _log_plan(jobs: EncodeJobs, codec: Codec, directory: Path) -> None:
    seconds = sum(job.seconds for job in jobs.jobs)
    frames = seconds * frame_rate(codec)
    size = frames * codec.latent_dim * 4 / 1e6
    log.info(
        "%d files, %.1f s of audio -> about %.0f frames of %d latents (%.1f MB) in %s",
        jobs.files,
        seconds,
        frames,
        codec.latent_dim,
        size,
        directory,
    )
    if size * 1e6 > runs.free_bytes(directory):
        raise UserError(
            f"there is not enough disk space for {directory}",
            why=f"the latents take about {size / 1e3:.1f} GB",
            do_this="free some space, or choose a --run on another disk.",
        )


@dataclass(frozen=True)
class EncodeResult:
    """The result that `run.json` stores for a latent store."""

    sample_rate: int
    """Sample rate of the codec in Hz."""
    hop: int
    """Audio samples per latent frame."""
    latent_dim: int
    """Number of latent dimensions D."""
    channels: int
    """Number of audio channels."""
    files: int
    """Number of recordings."""
    validation: int
    """Number of recordings held out, entirely or at their end."""
    skipped: int
    """Number of recordings that could not be used."""
    frames: int
    """Total number of latent frames."""
    seconds: float
    """Total duration of the encoded audio."""
    level_db: float | None
    """RMS in dBFS of the training audio; None: digital silence."""


class _Encoding:
    """Encodes all files that are not done yet, each process its share of them."""

    def __init__(
        self,
        root: Path,
        stage: Stage | None,
        codec: Codec,
        project: Project,
        jobs: EncodeJobs,
        group: ProcessGroup,
    ) -> None:
        """`stage`: the open stage in the leading process, None in the others."""
        self._root, self._stage, self._group = root, stage, group
        self._codec = codec
        stems = file_stems(job.key for job in jobs.jobs)
        kinds = stored_kinds(project.condition)
        features = FeatureWriter(root, kinds, frame_rate(codec), project.data.beats)
        self._pass = FilesPass(root, codec, project.latents, features, stems)
        self._log = ProgressLog(root, group.rank)
        self._keep = project.latents.keep
        self._jobs = jobs.jobs
        self._skipped = list(jobs.skipped)
        self._done: dict[str, EncodedFile] = {}

    def run(self) -> list[str]:
        """Encode, then write manifest and statistics; "path: reason" of every file skipped."""
        group = self._group
        group.lead(self._resume)
        # Only the leader has read the progress files; its answer makes all processes agree.
        self._done = group.gather(self._done)[0]
        todo = [job for job in self._jobs if job.key not in self._done]
        mine = share_out(todo, group.size, self._pass.together)[group.rank]
        for encoded, skipped in group.everywhere(lambda: self._encode(mine)):
            self._done.update({file.entry.key: file for file in encoded})
            self._skipped += skipped
        # In the order of the jobs, whichever process was first.
        files = [self._done[job.key] for job in self._jobs if job.key in self._done]
        training = [file for file in files if file.entry.split == "train"] or files
        sums = group.everywhere(lambda: self._sum_up(training[group.share(len(training))]))
        # Led, so that the others fail too if this fails.
        group.lead(lambda: self._finish(files, training, sums))
        return self._skipped

    def _resume(self) -> None:
        """Take over the files that interrupted runs have completed, in any number of processes."""
        if self._log.exists():
            self._done = self._log.take_over(self._jobs)
            log.info("continuing: %d of %d files are done", len(self._done), len(self._jobs))

    def _encode(self, mine: list[EncodeJob]) -> tuple[list[EncodedFile], list[str]]:
        """The encoded files, and "path: reason" of those that were skipped."""
        done = []
        total = round(sum(job.seconds for job in mine), 1)
        try:
            with (
                progress(total=total, unit="s", what="encode") as bar,
                closing(self._pass.files(mine)) as files,
            ):
                for file, seconds in files:
                    bar.update(seconds)
                    if file is not None:
                        done.append(file)
                        self._log.append(file)
                    self._group.stop_if_orphaned()
        finally:
            for job in mine:
                job.close()
        return done, [f"{job.path}: {job.failed}" for job in mine if job.failed]

    def _sum_up(self, files: list[EncodedFile]) -> StatisticsAccumulator:
        sums = StatisticsAccumulator()
        for block, spread in self._blocks(files):
            sums.update(block, spread)
        return sums

    def _blocks(
        self, files: list[EncodedFile]
    ) -> Iterator[tuple[NDArray[np.floating[Any]], NDArray[np.float64]]]:
        """Means and, instead of each frame's std, the file's RMS of it: its squares sum up to the
        same, and the stds themselves need not be stored."""
        for file in files:
            spread = np.array(file.posterior)[:, None]
            for start in range(0, file.entry.frames, _BLOCK):
                # Mapped anew for each block: pages of a mapping count as our memory until it ends.
                block = read_array(self._root / file.entry.mean)[:, start : start + _BLOCK]
                yield block, np.broadcast_to(spread, block.shape)

    def _finish(
        self,
        files: list[EncodedFile],
        training: list[EncodedFile],
        sums: list[StatisticsAccumulator],
    ) -> None:
        """Write manifest, statistics and result."""
        assert self._stage is not None
        if not files:
            listed = "\n    ".join(self._skipped[:5])
            raise UserError(
                "nothing could be encoded",
                why="\n    " + listed,
                do_this="repair or convert the recordings, or name others with --audio.",
            )
        runs.write_jsonl(self._root / MANIFEST, [file.manifest_row() for file in files])
        statistics = _merged(sums)
        statistics.save(self._root / STATISTICS)
        result = self._result(files, training)
        health = self._health(files, statistics)
        self._stage.record(**asdict(result), **asdict(health))
        log.info(
            "%d files (%d held out, whole or their end), %.1f s, %d frames; level of the training "
            "audio: %s dBFS",
            *(result.files, result.validation, result.seconds, result.frames, result.level_db),
        )
        try:
            log.info("%s", statistics.describe(self._keep))
        except UserError as error:
            # latents.keep does not fit these latents: a matter for training, not for the store.
            log.warning("%s", error)
        health.warn()
        # Last: until the store is complete, the next run needs it.
        self._log.remove()
        log.info("latents: %s", self._root)

    def _health(self, files: list[EncodedFile], statistics: LatentStatistics) -> DataHealth:
        codec, entries = self._codec, [file.entry for file in files]
        # Not by `LatentStore.open`: the stage is still running.
        store = LatentStore(self._root, entries, codec.latent_dim)
        # A file whose end is held out is two entries, and one recording.
        of_sources = {file.entry.source or file.entry.key: file for file in reversed(files)}
        recordings = {x.entry.key: x.health for x in of_sources.values() if x.health}
        return examine(store, statistics, recordings, codec.channels, frame_rate(codec))

    def _result(self, files: list[EncodedFile], training: list[EncodedFile]) -> EncodeResult:
        codec = self._codec
        level = LevelMeter()
        for file in training:
            level.merge(file.level)
        samples = sum(file.entry.samples or 0 for file in files)
        return EncodeResult(
            sample_rate=codec.sample_rate,
            hop=codec.hop,
            latent_dim=codec.latent_dim,
            channels=codec.channels,
            files=len({file.entry.source for file in files}),
            validation=sum(file.entry.split == "validation" for file in files),
            skipped=len(self._skipped),
            frames=sum(file.entry.frames for file in files),
            seconds=samples / codec.sample_rate,
            level_db=json_db(level.db),
        )


def _merged(sums: list[StatisticsAccumulator]) -> LatentStatistics:
    whole = StatisticsAccumulator()
    for part in sums:
        whole.merge(part)
    return whole.finish()
