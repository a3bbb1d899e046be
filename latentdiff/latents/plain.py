"""Folders of `.npy` files that another program wrote: latents, and the mel spectrograms with them.

Latents are [D, T] or [1, D, T]; [T, D] is recognised, since latents change less from frame to frame
than from dimension to dimension. Spectrograms are `NAME.spec.npy` beside `NAME.npy` (DiffWave's
names), or `mel/NAME.npy` beside `mean/NAME.npy` (ours).

Shapes: D latent dimensions, T latent frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from latentdiff.errors import UserError
from latentdiff.latents.arrays import read_array

log = logging.getLogger(__name__)

SPECTROGRAM = ".spec.npy"
"""Ending of a spectrogram beside the latents."""
MEANS, STDS, MELS = "mean", "std", "mel"
"""Folders of our stores; arrays in them are always [D, T]."""

TRANSPOSE = (
    'python -c "import sys, numpy as np; '
    '[np.save(f, np.load(f).swapaxes(-1, -2)) for f in sys.argv[1:]]" FILES'
)
"""Command that transposes arrays in place."""

_AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".aif", ".aiff", ".npy")
"""Endings of a recording that names of arrays may have kept, as in `song.wav.spec.npy`."""
_LOOKED_AT = 8
"""Files that the axis of time is told by."""
_SIDE = 2048
"""Rows and columns of each."""
_NAMED = 5


@dataclass(frozen=True)
class PlainFile:
    """One recording; paths are relative to the folder."""

    key: str
    mean: str
    frames: int
    """T."""
    std: str | None = None
    mel: str | None = None

    @property
    def label(self) -> str | None:
        """Name of the folder it is in."""
        return PurePosixPath(self.key).parent.name or None


@dataclass(frozen=True)
class PlainFolder:
    """The latents of a folder, or a single file."""

    root: Path
    files: list[PlainFile]
    latent_dim: int
    """D."""
    transposed: bool
    """Whether the arrays are [T, D]."""


def read_plain(path: Path, *, known: bool = False) -> PlainFolder:
    """The latents in a folder, or in one file. `known`: they are [D, T] for certain.

    Raises UserError if there are none, if a file is damaged, or if not all have one D. Warns of
    spectrograms that belong to no latents, and of arrays that may be transposed.
    """
    root = path if path.is_dir() else path.parent
    ours = not any(root.glob("*.npy")) and bool(_arrays(root / MEANS))
    base = root / MEANS if ours else root
    arrays = _arrays(base) if path.is_dir() else [path]
    paths = [file for file in arrays if not file.name.endswith(SPECTROGRAM)]
    if not paths:
        raise UserError(
            f"there are no latents in {path}",
            why="no .npy file but spectrograms" if arrays else "no .npy file and no manifest",
            do_this="give a folder that `latentdiff encode` or `latentdiff sample` wrote.",
        )
    shapes = [_shape(file) for file in paths]
    transposed = not (known or ours) and _is_transposed(path, paths, shapes)
    if transposed:
        shapes = [(rows, frames) for frames, rows in shapes]
    _check_dimensions(paths, shapes)
    keys = [file.relative_to(base).with_suffix("").as_posix() for file in paths]
    mels = _spectrograms(root, keys, arrays, ours)
    files = [
        PlainFile(
            key=key,
            mean=file.relative_to(root).as_posix(),
            frames=frames,
            std=_std(root, key) if ours else None,
            mel=mels.get(key),
        )
        for key, file, (_, frames) in zip(keys, paths, shapes, strict=True)
    ]
    return PlainFolder(root, files, shapes[0][0], transposed)


def _arrays(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.npy")) if not file.name.startswith(".")]


def _shape(file: Path) -> tuple[int, int]:
    rows, frames = read_array(file).shape
    return rows, frames


def _std(root: Path, key: str) -> str | None:
    name = f"{STDS}/{key}.npy"
    return name if (root / name).is_file() else None


# --- spectrograms


def _spectrograms(
    root: Path, keys: Iterable[str], arrays: Iterable[Path], ours: bool
) -> dict[str, str]:
    """Key of the latents -> file of its spectrogram, where there is one."""
    base = root / MELS if ours else root
    found = _arrays(base) if ours else [f for f in arrays if f.name.endswith(SPECTROGRAM)]
    by_name: dict[str, Path] = {}
    for file in found:
        name = _name(file.relative_to(base).as_posix())
        if (other := by_name.setdefault(name, file)) != file:
            raise UserError(
                f"{file} and {other.name} would belong to the same latents",
                do_this="rename or remove one of them.",
            )
    pairs = {key: by_name.pop(name) for key in keys if (name := _name(key)) in by_name}
    if by_name:
        listed = ", ".join(file.name for file in list(by_name.values())[:_NAMED])
        log.warning("%d spectrograms belong to no latents: %s", len(by_name), listed)
    return {key: file.relative_to(root).as_posix() for key, file in pairs.items()}


def _name(key: str) -> str:
    """What the names of latents and their spectrogram share."""
    name = key.removesuffix(SPECTROGRAM)
    while PurePosixPath(name).suffix in _AUDIO:
        name = str(PurePosixPath(name).with_suffix(""))
    return name


# --- which axis is time


def _is_transposed(path: Path, files: Sequence[Path], shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether the arrays are [T, D]; warns where that cannot be told and is likely."""
    rows, columns = shapes[0]
    firsts, seconds = ({shape[axis] for shape in shapes} for axis in (0, 1))
    if len(seconds) > 1:
        return False  # [D, T], or of several D
    axis = _time_axis(files)
    if axis == 0:
        log.warning(
            "%s: taken as [frames, dimensions], such as %d frames of %d, as neighbours along the "
            "first axis resemble each other. If that is wrong, put the arrays into a folder called "
            "%s in it: there, they are always [dimensions, frames].",
            *(path, rows, columns, MEANS),
        )
        return True
    if axis is None and len(firsts) == 1 and columns < rows:
        # Short clips of a large codec have fewer frames than dimensions too, so this is no error.
        log.warning(
            "%s: [%d, %d] is taken as %d dimensions of %d frames. If these arrays are "
            "[frames, dimensions], transpose them: %s",
            *(path, rows, columns, rows, columns, TRANSPOSE),
        )
    return False


def _time_axis(files: Sequence[Path]) -> int | None:
    """The axis along which neighbours resemble each other, 0 or 1; None: neither clearly does.

    Measured on a RAVE of 128 dimensions and clips of 5 s: 0.3 to 0.7 along time and below 0.03
    along dimensions for posterior means; 0.035 and 0.006 for draws from the posterior.
    """
    power, products, count = 0.0, np.zeros(2), 0
    for file in files[:: max(1, len(files) // _LOOKED_AT)][:_LOOKED_AT]:
        x = np.asarray(read_array(file)[:_SIDE, :_SIDE], np.float64)
        # Neither the mean of a dimension nor that of a frame says anything about neighbours.
        x = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
        power += float(np.square(x).sum())
        products += (x[1:] * x[:-1]).sum(), (x[:, 1:] * x[:, :-1]).sum()
        count += x.size
    if not (power > 0 and math.isfinite(power)):
        return None
    # Taking means away leaves negative products along an axis of few entries: they say nothing.
    first, second = np.maximum(products / power, 0)
    least = max(0.02, 6 / math.sqrt(count))
    if first > max(least, 3 * second):
        return 0
    return 1 if second > max(least, 3 * first) else None


def _check_dimensions(files: Sequence[Path], shapes: Sequence[tuple[int, int]]) -> None:
    """Raises UserError if not all arrays have the same number of dimensions."""
    for file, shape in zip(files, shapes, strict=True):
        if shape[0] == shapes[0][0]:
            continue
        what = f"{file} has {shape[0]} dimensions, {files[0].name} has {shapes[0][0]}"
        if all(frames == shapes[0][1] for _, frames in shapes):
            raise UserError(
                what,
                why=f"latents are [dimensions, frames]; the second axis of these is always "
                f"{shape[1]}, as if they were [frames, dimensions]",
                do_this=f"if so, transpose them: {TRANSPOSE}",
            )
        raise UserError(
            what,
            why="latents of different codecs cannot be used together",
            do_this="keep them in separate folders (latents are [dimensions, frames]).",
        )
