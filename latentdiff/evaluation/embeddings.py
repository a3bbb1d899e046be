"""Embeddings of sound that the user has, by name, for further Frechet distances.

A plug-in is a callable `(audio [N] float32 in -1..1, sample_rate in Hz) -> features [frames, F]`,
announced under the entry point group `latentdiff.embeddings` of any installed package:

    [project.entry-points."latentdiff.embeddings"]
    clap = "my_package:embed"

Shapes: F features, N audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

import numpy as np
import torch
from torch import Tensor

from latentdiff.config import did_you_mean
from latentdiff.errors import UserError

GROUP = "latentdiff.embeddings"

Embedding = Callable[[np.ndarray, int], np.ndarray]


def load(name: str) -> Embedding:
    """The plug-in of that name. Raises UserError, naming those there are, where it is missing or
    cannot be loaded."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"there is no embedding called '{name}'{did_you_mean(name, list(found))}",
            why=f"installed packages offer: {there}",
            do_this=f"install a package with an entry point '{name}' in the group '{GROUP}': "
            "a function (audio [N] float32, sample_rate) -> features [frames, F].",
        )
    try:
        return found[name].load()  # type: ignore[no-any-return]
    except Exception as error:
        raise UserError(
            f"the embedding '{name}' ({found[name].value}) cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            do_this="install what it needs, or leave --embedding out.",
        ) from error


def embed(name: str, function: Embedding, clips: Iterable[np.ndarray], sample_rate: int) -> Tensor:
    """The features [n, F] of all clips [channels, N], one clip after the other.

    Raises UserError where the plug-in fails or gives something else than [frames, F] of numbers.
    """
    parts = []
    for clip in clips:
        try:
            given = function(clip.mean(axis=0).astype(np.float32), sample_rate)
            part = np.asarray(given, dtype=np.float32)
        except Exception as error:
            raise UserError(
                f"the embedding '{name}' failed on a sound of {clip.shape[1]} samples at "
                f"{sample_rate} Hz",
                why=f"{type(error).__name__}: {error}",
                do_this="this is the plug-in's fault; leave --embedding out to go on without it.",
            ) from error
        if part.ndim != 2 or part.size == 0 or not np.isfinite(part).all():
            raise UserError(
                f"the embedding '{name}' gave no features",
                why=f"an array {list(part.shape)}, or not finite; [frames, F] is asked for",
                do_this="this is the plug-in's fault; leave --embedding out to go on without it.",
            )
        parts.append(torch.from_numpy(part))
    return torch.cat(parts)
