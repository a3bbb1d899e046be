"""Files whose latents do not belong with the others: of another codec, shifted, scaled, at rest.

Latents of one codec vary within one subspace of few directions, whatever the recording: on eight
unlike recordings (speech, a bird, an orchestra, electronic music) any two files share 0.53 of their
variance, and files of two codecs 0.04. Only means outside of that subspace betray an offset, as
within it recordings differ in their means too: 0.15 deviations there, 0.5 after adding a third of
a deviation to half of the files.

Shapes: D latent dimensions, F files, K directions, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from latentdiff import runs
from latentdiff.latents.statistics import LatentStatistics, fit
from latentdiff.latents.store import MANIFEST, Entry, LatentStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Kind = Literal["codecs", "offset", "scale", "level", "constant"]
"""codecs: latents of more than one codec. offset: a constant added to some files. scale: latents of
another size. level: a recording far louder than the others. constant: frames that repeat."""

MOST_FILES = 256
"""Files that are looked at; of more, evenly spread ones."""
MOST_FRAMES = 4096
"""Frames of a file that are looked at, from its middle."""
FEWEST_FRAMES = 16
"""Files shorter than this are left out: they have no covariance of their own."""
FEWEST_FILES = 4
"""Files below which none is an outlier."""
SUBSPACE = 0.95
"""Share of a file's variance that the directions hold by which files are compared."""
COMMON_SUBSPACE = 0.99
"""Share of the variance of all files that the directions hold which means may differ along."""
RELATED = 0.25
"""Variance that files of one codec share, between chance (0) and all of it (1)."""
OUTSIDE = 0.25
"""Mean outside of the common subspace, in deviations of a typical frame, that is an offset."""
APART = 4.5
"""Distance between two groups of means over their own spread, above which they are apart..."""
STEP = 0.75
"""...if they are also this many deviations of a typical frame apart."""
SCALED = 5.0
"""Deviation of a file over the median of the others, or the inverse, that is an outlier."""
LOUD_DB = 16.0
"""Level of a recording over the median of the others that is an outlier."""
AT_REST = 0.5
"""Share of repeated frames that is reported: digital silence, or a codec that puts out nothing."""
_STILL = 1e-4
"""Change of a frame, in deviations of a typical one, below which it repeats the one before."""


@dataclass(frozen=True)
class Outliers:
    """One way in which some files do not belong with the others."""

    kind: Kind
    keys: tuple[str, ...]
    """Keys of the files; the fewer ones where they are two groups."""
    value: float
    """What was measured; see `text`."""
    limit: float
    """What `value` was compared with."""

    @property
    def text(self) -> str:
        """What was found, in a sentence, without the names of the files."""
        files, value, limit = f"{len(self.keys)} file(s)", self.value, self.limit
        return {
            "codecs": f"{files} vary along other directions than the rest: the latents are of "
            f"different codecs (shared variance {value:.2f}; of one codec: above {limit:.2f})",
            "offset": f"the latents of {files} are shifted by a constant: their means lie "
            f"{value:.2f} deviations from where recordings can differ (healthy: below {limit:.2f})",
            "scale": f"the latents of {files} vary {value:.2g} times as much as those of the others"
            f" (healthy: {1 / limit:.2g} to {limit:.2g})",
            "level": f"{files} are up to {value:.0f} dB louder than the others (healthy: below "
            f"{limit:.0f} dB)",
            "constant": f"{value:.0%} of the frames of {files} repeat the frame before (healthy: "
            f"below {limit:.0%})",
        }[self.kind]


@dataclass(frozen=True)
class FileMoments:
    """What is known of the latents of one file."""

    key: str
    statistics: LatentStatistics
    """Of at most MOST_FRAMES frames."""
    changes: Array
    """[T - 1], distance of each frame to the one before."""
    level_db: float | None
    """RMS of the recording in dBFS; None: unknown, or digital silence."""


def find_outliers(store: LatentStore) -> list[Outliers]:
    """What does not belong together in a store, most serious first.

    Reads at most MOST_FILES * MOST_FRAMES frames. Raises UserError if a file is damaged.
    """
    return outliers(moments(store))


def moments(store: LatentStore) -> list[FileMoments]:
    """The moments of the files of a store, of evenly spread ones if they are many."""
    entries = [entry for entry in store.entries if entry.frames >= FEWEST_FRAMES]
    chosen = np.linspace(0, len(entries) - 1, min(len(entries), MOST_FILES)).round().astype(int)
    levels = _levels(store)
    return [_moments(store, entries[k], levels) for k in chosen]


def outliers(files: Sequence[FileMoments]) -> list[Outliers]:
    """What does not belong together among these files, most serious first."""
    if not files:
        return []
    found = [_constant(files)]
    if len(files) >= FEWEST_FILES:
        # Latents of two codecs differ in everything else too, which then means nothing.
        codecs = _codecs(files)
        others = [_scale(files), _level(files), *found]
        found = [codecs, *others] if codecs else [_offset(files), *others]
    return [one for one in found if one is not None]


def _moments(store: LatentStore, entry: Entry, levels: dict[str, float | None]) -> FileMoments:
    start = max(0, (entry.frames - MOST_FRAMES) // 2)
    block = np.asarray(store.mean(entry)[:, start : start + MOST_FRAMES], dtype=np.float64)
    changes: Array = np.linalg.norm(np.diff(block, axis=1), axis=0)
    return FileMoments(entry.key, fit([(block, None)]), changes, levels.get(entry.key))


def _levels(store: LatentStore) -> dict[str, float | None]:
    """Level of each recording in dBFS, as far as `encode` has noted it."""
    manifest = store.root / MANIFEST
    if not manifest.is_file():
        return {}
    return {str(row.get("key")): row.get("level_db") for row in runs.read_jsonl(manifest)}


def _codecs(files: Sequence[FileMoments]) -> Outliers | None:
    """Groups of files that hardly share directions; all but the largest group are reported."""
    bases = [_basis(file.statistics.covariance, SUBSPACE) for file in files]
    count, dimensions = len(files), files[0].statistics.dimensions
    widest = max(basis.shape[1] for basis in bases)
    if widest > 0.7 * dimensions or widest == 0:
        return None  # every file varies in all directions
    shared = np.eye(count)
    for i, file in enumerate(files):
        covariance = file.statistics.covariance
        for j, basis in enumerate(bases):
            along = np.einsum("dk,de,ek->", basis, covariance, basis) / max(
                float(np.trace(covariance)), 1e-300
            )
            # Of unrelated directions, K of D hold that share by chance.
            chance = basis.shape[1] / dimensions
            shared[i, j] = (along - chance) / (1 - chance)
    mutual = np.minimum(shared, shared.T)
    groups = _connected(mutual > RELATED)
    if len(groups) < 2:
        return None
    largest = max(groups, key=len)
    rest = [k for group in groups if group is not largest for k in group]
    value = float(mutual[np.ix_(rest, largest)].max())
    return Outliers("codecs", _keys(files, rest), value, RELATED)


def _basis(covariance: Array, share: float) -> Array:
    """[D, K] orthonormal directions that hold this share of the variance."""
    variances, directions = np.linalg.eigh(covariance)
    held = np.cumsum(variances[::-1])
    if held[-1] <= 0:
        return directions[:, :0]
    return directions[:, ::-1][:, : int(np.searchsorted(held, share * held[-1])) + 1]


def _connected(linked: NDArray[np.bool_]) -> list[list[int]]:
    """Connected components of a graph, given which of its F nodes are linked [F, F]."""
    left, groups = set(range(len(linked))), []
    while left:
        group, edge = set[int](), {min(left)}
        while edge:
            group |= edge
            edge = {int(k) for node in edge for k in np.flatnonzero(linked[node])} - group
        groups.append(sorted(group))
        left -= group
    return groups


def _offset(files: Sequence[FileMoments]) -> Outliers | None:
    """Files whose means lie where recordings of this codec cannot differ, or in a group apart."""
    means = np.stack([file.statistics.mean for file in files])
    frames = np.array([file.statistics.frames for file in files])
    covariance = np.average([f.statistics.covariance for f in files], axis=0, weights=frames)
    unit = float(np.sqrt(np.trace(covariance)))
    if unit == 0:
        return None
    away = (means - np.median(means, axis=0)) / unit
    basis = _basis(covariance, COMMON_SUBSPACE)
    outside = away - away @ basis @ basis.T
    farthest = float(np.linalg.norm(outside, axis=1).max())
    if farthest > OUTSIDE:
        return Outliers("offset", _keys(files, _fewer(outside)), farthest, OUTSIDE)
    fewer = _fewer(away)
    more = [k for k in range(len(files)) if k not in fewer]
    step = float(np.linalg.norm(away[fewer].mean(axis=0) - away[more].mean(axis=0)))
    spread = float(np.sqrt((_scatter(away[fewer]) + _scatter(away[more])) / len(files)))
    # One file alone is a group of no spread: any recording unlike the others would be one.
    if len(fewer) < 2 or step < STEP or step < APART * spread:
        return None
    return Outliers("offset", _keys(files, fewer), step, STEP)


def _fewer(points: Array) -> list[int]:
    """The smaller one of two groups of points [F, D], parted along their principal direction."""
    centred = points - points.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    one, other = (np.flatnonzero(side).tolist() for side in (along > 0, along <= 0))
    return min(one, other, key=len) or max(one, other, key=len)


def _scatter(points: Array) -> float:
    return float(np.square(points - points.mean(axis=0)).sum())


def _scale(files: Sequence[FileMoments]) -> Outliers | None:
    deviations = np.array([np.sqrt(np.trace(file.statistics.covariance)) for file in files])
    ratios = _over_others(deviations, lambda own, typical: own / max(typical, 1e-300))
    away = np.maximum(ratios, 1 / np.maximum(ratios, 1e-300))
    # Silence, which hardly varies, is found as constant frames.
    resting = _resting(files)
    chosen = [k for k in np.flatnonzero(away > SCALED).tolist() if resting[k] <= AT_REST]
    if not chosen:
        return None
    worst = max(chosen, key=lambda k: away[k])
    return Outliers("scale", _keys(files, chosen), float(ratios[worst]), SCALED)


def _level(files: Sequence[FileMoments]) -> Outliers | None:
    heard = [file for file in files if file.level_db is not None]
    if len(heard) < FEWEST_FILES:
        return None
    levels = np.array([file.level_db for file in heard], dtype=np.float64)
    above = _over_others(levels, lambda own, typical: own - typical)
    chosen = np.flatnonzero(above > LOUD_DB).tolist()
    if not chosen:
        return None
    return Outliers("level", _keys(heard, chosen), float(above.max()), LOUD_DB)


def _over_others(values: Array, over: Callable[[float, float], float]) -> Array:
    """Each of the values compared with the median of all others."""
    return np.array([over(v, float(np.median(np.delete(values, k)))) for k, v in enumerate(values)])


def _constant(files: Sequence[FileMoments]) -> Outliers | None:
    shares = _resting(files)
    chosen = np.flatnonzero(shares > AT_REST).tolist()
    if not chosen:
        return None
    return Outliers("constant", _keys(files, chosen), float(shares[chosen].mean()), AT_REST)


def _resting(files: Sequence[FileMoments]) -> Array:
    """[F] share of the frames of each file that repeat the frame before."""
    typical = np.sqrt(np.median([np.trace(file.statistics.covariance) for file in files]))
    return np.array([float((file.changes <= _STILL * typical).mean()) for file in files])


def _keys(files: Sequence[FileMoments], chosen: Sequence[int]) -> tuple[str, ...]:
    return tuple(files[k].key for k in chosen)
