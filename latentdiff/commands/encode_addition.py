"""`encode` into a finished store: the features of condition kinds that it lacks, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from latentdiff import runs
from latentdiff.audio import AudioError
from latentdiff.commands.encode_features import FeatureWriter
from latentdiff.commands.encode_jobs import EncodeJob, EncodeJobs
from latentdiff.config import Values
from latentdiff.errors import UserError
from latentdiff.latents.store import MANIFEST, Entry, LatentStore
from latentdiff.model.condition_data import MissingFeatures
from latentdiff.model.project import Project, extend
from latentdiff.runs import Input, ProgressFiles, Run, Stage
from latentdiff.specs import Codec, frame_rate
from latentdiff.tracking import progress
from latentdiff.training.process_group import ProcessGroup

log = logging.getLogger(__name__)

HARMLESS = ("latents.keep", "latents.scaling", "latents.chunk_seconds", "latents.batch")
"""Settings that change how encoding runs or what training makes of it, but none of the files."""
PROGRESS = "added.jsonl"
"""A line for each recording whose features are complete; until the manifest names them."""


@dataclass
class Addition:
    """Adds features to a finished store.

    Until the last of them is complete, the manifest and `run.json` do not name any: an interrupted
    addition leaves the store as it was, and the next one continues it.
    """

    into: Run
    project: Project
    jobs: EncodeJobs
    codec: Codec
    inputs: Mapping[str, Input]
    """All that the store is made from, `missing.inputs` included."""
    missing: MissingFeatures
    _done: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key -> name -> file of the features of a recording."""

    def plan(self) -> None:
        """Log what is to be done. Raises UserError where the store is of another codec or audio."""
        self._stage()
        self._log_plan()

    def run(self, group: ProcessGroup) -> None:
        """Add the features, each process those of its share of the recordings."""
        with ExitStack() as stack:
            group.lead(lambda: self._open(stack))
            files = ProgressFiles(self.into.latents, PROGRESS, group.rank)
            store = LatentStore.open(self.into.latents)
            group.lead(lambda: self._resume(files))
            # Only the leader has read the progress files; its answer makes all processes agree.
            self._done = group.gather(self._done)[0]
            todo = [entry for entry in store.entries if entry.key not in self._done]
            mine = todo[group.share(len(todo))]
            failed = []
            for done, reasons in group.everywhere(lambda: self._compute(mine, files, group)):
                self._done.update(done)
                failed += reasons
            group.lead(lambda: self._finish(store, failed, files))

    def _stage(self) -> Stage:
        return extend(
            self.into,
            self.project,
            self.into.latents,
            "encode",
            sections=["latents"],
            inputs={k: v for k, v in self.inputs.items() if k not in self.missing.inputs},
            added=self.missing.inputs,
            harmless=HARMLESS,
        )

    def _open(self, stack: ExitStack) -> None:
        stack.enter_context(self._stage())
        self._log_plan()

    def _log_plan(self) -> None:
        seconds = sum(job.seconds for job in self.jobs.jobs)
        log.info(
            "%d files, %.1f s of audio -> features of %s, added to the latents in %s",
            self.jobs.files,
            seconds,
            ", ".join(self.missing.kinds),
            self.into.latents,
        )

    def _resume(self, files: ProgressFiles) -> None:
        """Take over what interrupted additions have completed, of the same kinds."""
        if not files.exists():
            return
        jobs = {job.key: job for job in self.jobs.jobs}
        rows = {
            row["key"]: row
            for row in files.rows()
            if row["key"] in jobs
            and row == self._row(jobs[row["key"]], row["features"])
            and all((self.into.latents / name).is_file() for name in row["features"].values())
        }
        files.replace(rows.values())
        self._done = {key: row["features"] for key, row in rows.items()}
        log.info("continuing: %d of %d files are done", len(rows), len(jobs))

    def _row(self, job: EncodeJob, features: Mapping[str, str]) -> Values:
        """A line of the progress files; it differs if the recording or the settings do."""
        made_from = {role: source.fingerprint for role, source in self.missing.inputs.items()}
        return {
            "key": job.key,
            "identity": job.identity(),
            "made_from": made_from,
            "features": dict(features),
        }

    def _compute(
        self, entries: list[Entry], files: ProgressFiles, group: ProcessGroup
    ) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Key -> name -> file of their features, and "path: reason" of unreadable recordings."""
        root, beats = self.into.latents, self.project.data.beats
        writer = FeatureWriter(root, self.missing.kinds, frame_rate(self.codec), beats)
        jobs = {job.key: job for job in self.jobs.jobs}
        done, failed = {}, []
        total = round(sum(jobs[entry.key].seconds for entry in entries), 1)
        with progress(total=total, unit="s", what="features") as bar:
            for entry in entries:
                job, stem = jobs[entry.key], Path(entry.mean).stem
                try:
                    job.check_unchanged()
                    seconds = (entry.samples or 0) / self.codec.sample_rate
                    done[job.key] = writer.write(job, stem, entry.frames, seconds)
                    files.append(self._row(job, done[job.key]))
                except AudioError as error:
                    failed.append(f"{job.path}: {error.why}")
                finally:
                    job.close()
                bar.update(job.seconds)
                group.stop_if_orphaned()
        return done, failed

    def _finish(self, store: LatentStore, failed: list[str], files: ProgressFiles) -> None:
        if failed:
            raise UserError(
                f"some recordings of the latents in {store.root} can no longer be read",
                why="\n    " + "\n    ".join(failed[:5]),
                do_this="put them back and repeat the command, or encode the others anew with "
                "--overwrite. The latents are as they were.",
            )
        rows = runs.read_jsonl(store.root / MANIFEST)
        extended = [entry.with_features(self._done[entry.key]) for entry in store.entries]
        # Lines hold more than an entry does.
        lines = [row | entry.row() for row, entry in zip(rows, extended, strict=True)]
        runs.write_jsonl(store.root / MANIFEST, lines)
        for kind in self.missing.kinds:
            count = sum(kind in features for features in self._done.values())
            log.info("%s: %d of %d files have it", kind, count, len(extended))
        # Last: until the manifest names everything, the next run needs them.
        files.remove()
        log.info("latents: %s", store.root)
