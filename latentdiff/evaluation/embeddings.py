"""Audio embeddings from other packages, for further scores.

A plug-in is a function `(audio [N] float32 in -1..1, sample_rate in Hz) -> features [frames, F]`,
which any installed package can offer in the entry point group `latentdiff.embeddings`:

    [project.entry-points."latentdiff.embeddings"]
    clap = "my_package:embed"

Shapes: F features, N audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentdiff.config import did_you_mean
from latentdiff.errors import UserError

GROUP = "latentdiff.embeddings"

Embedding = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""(audio [N], sample rate in Hz) -> features [frames, F]."""


def load(name: str) -> Embedding:
    """The plug-in called `name`. Raises UserError if there is none or it cannot be loaded."""
    plugins = {point.name: point for point in entry_points(group=GROUP)}
    if name not in plugins:
        there = ", ".join(sorted(plugins)) or "none"
        raise UserError(
            f"there is no embedding called '{name}'{did_you_mean(name, list(plugins))}",
            why=f"installed packages offer: {there}",
            do_this=f"install a package with an entry point '{name}' in the group '{GROUP}': "
            "a function (audio [N] float32, sample_rate) -> features [frames, F].",
        )
    try:
        return plugins[name].load()  # type: ignore[no-any-return]
    except Exception as error:
        raise UserError(
            f"the embedding '{name}' ({plugins[name].value}) cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            do_this="install what it needs, or leave --embedding out.",
        ) from error


def embed(
    name: str, function: Embedding, clips: Iterable[NDArray[np.float32]], sample_rate: int
) -> list[Tensor]:
    """The features [frames, F] of each clip [channels, N].

    Raises UserError if the plug-in fails or returns anything but finite features [frames, F].
    """
    return [_features(name, function, clip, sample_rate) for clip in clips]


def describe(embedded: Iterable[Tensor]) -> Tensor:
    """Mean and standard deviation over the frames of each clip: [B, 2 F]."""
    return torch.stack([torch.cat([x.mean(0), x.std(0, correction=0)]) for x in embedded])


def _features(
    name: str, function: Embedding, clip: NDArray[np.float32], sample_rate: int
) -> Tensor:
    """The features [frames, F] of one clip, mixed down to mono."""
    try:
        given = function(clip.mean(axis=0).astype(np.float32), sample_rate)
        features = np.asarray(given, dtype=np.float32)
    except Exception as error:
        raise UserError(
            f"the embedding '{name}' failed on a sound of {clip.shape[1]} samples at "
            f"{sample_rate} Hz",
            why=f"{type(error).__name__}: {error}",
            do_this=_ASK_ITS_AUTHOR,
        ) from error
    if features.ndim != 2 or features.size == 0 or not np.isfinite(features).all():
        raise UserError(
            f"the embedding '{name}' returned no features",
            why=f"it has to return finite numbers [frames, F], not an array {list(features.shape)}",
            do_this=_ASK_ITS_AUTHOR,
        )
    return torch.from_numpy(features)


_ASK_ITS_AUTHOR = "report this to the author of the plug-in; --embedding can be left out."
