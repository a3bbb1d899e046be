"""Condition features of recordings, on their way to a store's folder.

Shapes: K condition features, T latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from latentdiff.commands.encode_jobs import EncodeJob
from latentdiff.conditions.beat_tracker import SAMPLE_RATE, find_beats
from latentdiff.conditions.beats import BeatGrid, beats_of, read_beats
from latentdiff.conditions.kind import FeatureKind, Sound
from latentdiff.latents.arrays import array_writer


class FeatureWriter:
    """Computes and stores the features of some kinds, recording by recording."""

    def __init__(
        self,
        root: Path,
        kinds: Mapping[str, FeatureKind],
        frame_rate: float,
        beats: str | None = None,
    ) -> None:
        """`frame_rate`: latent frames per second. `beats`: CSV file of beats that are known."""
        self._root, self._kinds, self._frame_rate = root, kinds, frame_rate
        self._known_beats = {} if beats is None else read_beats(Path(beats))
        self._found_beats: tuple[Path | None, BeatGrid | None] = (None, None)

    def write(self, job: EncodeJob, stem: str, frames: int, seconds: float) -> dict[str, str]:
        """Name -> file [K, T] of each kind that a recording of `frames` latent frames has.

        All files appear, or none. Raises AudioError.
        """
        recording = Sound(lambda rate: job.slice(rate, 1), seconds, lambda: self._beats(job))
        files = {}
        with ExitStack() as stack:
            for name, kind in self._kinds.items():
                blocks = kind.extract(recording, frames, self._frame_rate)
                if blocks is None:
                    continue
                files[name] = f"{name}/{stem}.npy"
                writer = stack.enter_context(array_writer(self._root / files[name]))
                for features in blocks:
                    writer.append(features)
        return files

    def _beats(self, job: EncodeJob) -> BeatGrid | None:
        """Known beats, or those found in the whole recording: a part of it may be too short."""
        known = beats_of(job.key, job.start, self._known_beats)
        if known is not None:
            return known
        if self._found_beats[0] != job.path:
            whole = replace(job, start=0.0, stop=None, _open=[])
            try:
                self._found_beats = (job.path, find_beats(whole.slice(SAMPLE_RATE, 1)))
            finally:
                whole.close()
        found = self._found_beats[1]
        return None if found is None else found.shifted(job.start)
