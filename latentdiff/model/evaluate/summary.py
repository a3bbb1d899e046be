"""An evaluation in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from latentdiff.evaluation.scores import FAILING


@dataclass(frozen=True)
class FormSummary:
    """The scores of form of the samples; see `evaluation.scores` and `evaluation.coherence`."""

    scores: dict[str, float | None]
    """By kind of features. 1: as near to the music as real clips; 0: as far as white noise."""
    piece: float | None
    """Seconds that the samples stay one piece; None: not known."""
    beat: float | None
    """Seconds that they keep their beat; None: the music has none."""
    seconds: float
    """Length of a sample."""

    def __str__(self) -> str:
        known = {"stay one piece": self.piece, "keep their beat": self.beat}
        lasting = [f"{what} for {x:.1f} s" for what, x in known.items() if x is not None]
        scores = ", ".join(f"{kind} {_score(score)}" for kind, score in self.scores.items())
        line = f"scores of form (1: as real clips, 0: as noise): {scores}"
        if not lasting:
            return line
        return f"{line}; samples of {self.seconds:.0f} s {' and '.join(lasting)}"

    @property
    def problem(self) -> str | None:
        """What is wrong with the scores; None: nothing."""
        known = {kind: score for kind, score in self.scores.items() if score is not None}
        bad = " and ".join(kind for kind, score in known.items() if score < FAILING)
        if not bad:
            return None
        return f"the samples are unlike the music ({bad} below {FAILING:g}): train longer"


def _score(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def summary(path: Path) -> FormSummary:
    """Of an `evaluation.json`."""
    found = json.loads(path.read_text(encoding="utf-8"))
    lasting = found["coherence"]["samples"]
    piece, beat = (lasting[kind] and lasting[kind]["seconds"] for kind in ("continuity", "beat"))
    scores = {
        kind: found[kind]["joint"]["scores"]["samples"]["value"]
        for kind in ("latents", "sound")
        if kind in found
    }
    return FormSummary(scores, piece, beat, found["clip_seconds"])
