"""What a sample can be conditioned on: a mel spectrogram, a label, or both.

Torch is imported inside the functions that need it: reading a config must stay cheap.

Shapes: K condition features (mel bands), M mel frames, N audio samples, T latent frames.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from latentdiff.config import Section, did_you_mean
from latentdiff.errors import UserError
from latentdiff.torchaudio_guard import import_torchaudio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class MelConfig(Section):
    """The mel spectrogram; the defaults are DiffWave's."""

    sample_rate: int = Field(default=22050, ge=1000)
    """Hz; audio is resampled to it."""

    n_fft: int = Field(default=1024, ge=16)
    """Samples in a frame (Hann window of the same length)."""

    hop: int = Field(default=256, ge=1)
    """Samples from frame to frame."""

    bands: int = Field(default=80, ge=1)
    """Mel bands."""

    f_min: float = Field(default=20.0, ge=0)
    """Hz, lower edge of the lowest band."""

    f_max: float | None = Field(default=None, gt=0)
    """Hz, upper edge of the highest band. null: half the sample rate."""

    power: float = Field(default=1.0, gt=0)
    """1: magnitude, 2: power."""

    @model_validator(mode="after")
    def _frequencies_are_ordered(self) -> MelConfig:
        nyquist = self.sample_rate / 2
        top = self.f_max if self.f_max is not None else nyquist
        if top > nyquist:
            raise ValueError(f"f_max must not exceed half the sample rate ({nyquist:g} Hz)")
        if self.f_min >= top:
            raise ValueError(f"f_min must lie below the upper edge ({top:g} Hz)")
        if self.hop > self.n_fft:
            raise ValueError("hop must not exceed n_fft, or sound between frames is lost")
        return self


class ConditionConfig(Section):
    """What the diffusion model is told about the sound it is to make."""

    kind: Literal["none", "mel", "label", "both"] = "none"
    """none: it makes what it likes. mel: it follows a spectrogram, frame by frame. label: it makes
    one of several kinds of sound, named by the folders the files lie in. both: it follows a
    spectrogram in one of several kinds of sound."""

    labels: str | None = None
    """CSV file with a column `key`, a recording's path as it stands in the manifest of the latents,
    and a column `label`. null: the folder a recording lies in is its label."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability with which a training window loses its condition, so that the model can also
    run free and be guided. 0: it cannot."""

    mel: MelConfig = MelConfig()
    """The spectrogram of kinds mel and both."""

    @property
    def follows_mel(self) -> bool:
        """Whether the model is given a spectrogram."""
        return self.kind in ("mel", "both")

    @property
    def follows_label(self) -> bool:
        """Whether the model is given a label."""
        return self.kind in ("label", "both")

    @model_validator(mode="after")
    def _labels_are_used(self) -> ConditionConfig:
        if self.labels is not None and not self.follows_label:
            raise ValueError(f"labels mean nothing to a condition of kind {self.kind}")
        return self


def mel_of_blocks(blocks: Iterable[NDArray[Any]], config: MelConfig) -> Floats:
    """Mel spectrogram [K, M] of audio that arrives in blocks [channels, N]; see `mel_blocks`."""
    return np.concatenate(list(mel_blocks(blocks, config)), axis=1)


def mel_blocks(blocks: Iterable[NDArray[Any]], config: MelConfig) -> Iterator[Floats]:
    """Mel spectrogram in 0..1, in blocks [K, m], of audio that arrives in blocks [channels, N].

    The blocks follow each other at `config.sample_rate`; how the audio is cut into them makes no
    difference. Channels are averaged. Frame k is centred on sample k * hop, the outside counts as
    silence, so M = 1 + N // hop. The scale is DiffWave's: magnitudes of an STFT whose window has
    unit energy, 20 log10, -100..0 dB below 20 dB mapped to 0..1 (a full-scale sine reaches 1).
    """
    import torch

    transform = import_torchaudio().transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop,
        f_min=config.f_min,
        f_max=config.f_max,
        n_mels=config.bands,
        power=config.power,
        normalized=True,
        center=False,
    )
    for samples in _whole_frames(blocks, config):
        with torch.inference_mode():
            mel = transform(torch.from_numpy(samples))
            decibels = 20 * torch.log10(mel.clamp(min=1e-5))
            yield ((decibels - 20 + 100) / 100).clamp(0, 1).numpy()


def resample_blocks(blocks: Iterable[Floats], frames: int, ratio: float) -> Iterator[Floats]:
    """`resample_time` of features that arrive in blocks [K, m], as blocks that add up to `frames`.

    Memory does not grow with the length. Raises ValueError where no feature comes.
    """
    held: Floats | None = None
    first = done = 0  # index of the first feature held; frames delivered
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        # A frame looks less than two features past its end.
        ready = min(frames, int((first + held.shape[1] - 2) / ratio))
        if ready > done:
            yield resample_time(held, ready - done, ratio, done * ratio - first)
            done = ready
            start = max(0, int(done * ratio) - 1)
            held, first = held[:, max(0, start - first) :], max(first, start)
    if held is None:
        raise ValueError("there are no feature frames to resample")
    if done < frames:
        yield resample_time(held, frames - done, ratio, done * ratio - first)


def resample_time(
    features: Floats, frames: int, ratio: float | None = None, offset: float = 0.0
) -> Floats:
    """Features [K, M] => [K, frames], along time.

    Feature k is centred on time k, as `mel_of_blocks` makes them; target frame j stands for the
    time from offset + j * ratio to offset + (j + 1) * ratio. `ratio`: feature frames per target
    frame; None lets the targets fill the time from the first feature to the last. Several features
    a frame are averaged, fewer are interpolated between; past the last one its value is held.
    """
    count = features.shape[1]
    if count == 0:
        raise ValueError("there are no feature frames to resample")
    ratio = (count - 1) / frames if ratio is None else ratio
    if ratio < 1:
        centres = offset + (np.arange(frames) + 0.5) * ratio
        columns = [np.interp(centres, np.arange(count), band) for band in features]
        return np.stack(columns).astype(np.float32)
    # Integral up to each edge of the step function that holds feature k from k - 0.5 to k + 0.5;
    # the fraction may exceed 1 in the last step only, which holds the last value.
    edges = offset + np.arange(frames + 1) * ratio + 0.5
    step = np.minimum(edges.astype(int), count - 1)
    below = np.cumsum(features, axis=1, dtype=np.float64) - features
    integral = below[:, step] + (edges - step) * features[:, step]
    return (np.diff(integral, axis=1) / ratio).astype(np.float32)


@dataclass(frozen=True)
class Standardiser:
    """Scales each feature to mean 0 and variance 1 over the training frames."""

    mean: Floats
    """[K]."""
    std: Floats
    """[K], never below 1e-3: a band that is always silent stays silent."""

    @classmethod
    def fit(cls, files: Iterable[Floats]) -> Standardiser:
        """From the features [K, T] of every training file, in one pass.

        Raises UserError where there are none, or where they are not finite.
        """
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for features in files:
            block = features.astype(np.float64)
            count += block.shape[1]
            total = total + block.sum(axis=1)
            squares = squares + (block**2).sum(axis=1)
        if count == 0 or not np.isfinite(squares).all():
            raise UserError(
                "the condition features cannot be used",
                why="there are none" if count == 0 else "they hold NaN or infinite values",
                do_this="run `latentdiff encode` with condition.kind=mel again.",
            )
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, features: Floats) -> Floats:
        """[..., K, T] => the same, standardised."""
        return ((features - self.mean[:, None]) / self.std[:, None]).astype(np.float32)

    def arrays(self) -> dict[str, Floats]:
        """What to save; `from_arrays` takes it back."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Standardiser:
        """From arrays or CPU tensors `mean` and `std`."""
        return cls(np.asarray(arrays["mean"]), np.asarray(arrays["std"]))


def read_labels(path: Path) -> dict[str, str]:
    """Labels by key, from a CSV file with columns `key` and `label`; other columns are left out.

    Raises UserError where the file cannot be read, lacks a column, or names a key twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the labels {path}", why=str(error)) from error
    if not rows or not {"key", "label"} <= rows[0].keys():
        raise UserError(
            f"the labels {path} cannot be understood",
            why="there must be a first line `key,label` and one line a recording",
        )
    labels: dict[str, str] = {}
    for row in rows:
        key, label = (row["key"] or "").strip(), (row["label"] or "").strip()
        if labels.setdefault(key, label) != label:
            raise UserError(f"the labels {path} give {key} both '{labels[key]}' and '{label}'")
    return {key: label for key, label in labels.items() if label}


def labels_for(keys: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """The label of each key, "song train.wav" and "song validation.wav" being parts of "song.wav".

    Raises UserError naming some of the keys that have none.
    """
    wanted = list(keys)
    found = [labels.get(key) or labels.get(_PART.sub(r"\1", key)) for key in wanted]
    missing = [key for key, label in zip(wanted, found, strict=True) if label is None]
    if missing:
        some = "".join(f"\n    {key}" for key in missing[:5])
        raise UserError(
            f"{len(missing)} of {len(wanted)} recordings have no label",
            why=f"the file of condition.labels does not name{some}",
            do_this="give each a line `key,label`, with the key as it stands in the manifest of "
            "the latents.",
        )
    return [label for label in found if label is not None]


_PART = re.compile(r" (?:train|validation)(\.[^./]*)$")
"""What `encode` adds to the name of a recording whose end is held out."""


def label_names(labels: Iterable[str | None]) -> list[str]:
    """The sorted vocabulary of a data set; a label's index in it is what the network is given.

    Raises UserError where files have no label, or where there is but one to choose from.
    """
    seen = list(labels)
    names = sorted({label for label in seen if label is not None})
    missing = sum(label is None for label in seen)
    if missing or len(names) < 2:
        one = f"all files have the label '{names[0]}'" if names else "no file has a label"
        raise UserError(
            "the files cannot be told apart by label",
            why=f"{missing} of {len(seen)} files have no label" if missing else one,
            do_this="sort the audio into one folder a kind, name the kinds in a file "
            "(condition.labels), or set condition.kind=none.",
        )
    return names


def label_index(name: str, names: list[str]) -> int:
    """Index of a label in the vocabulary. Raises UserError for a label the model never saw."""
    if name not in names:
        raise UserError(
            f"the model knows no label '{name}'{did_you_mean(name, names)}",
            do_this=f"choose one of: {', '.join(names)}.",
        )
    return names.index(name)


def _whole_frames(blocks: Iterable[NDArray[Any]], config: MelConfig) -> Iterator[Floats]:
    """Mono audio [N'] in pieces that hold whole frames, half a frame of silence at both ends."""
    before, after = config.n_fft // 2, config.n_fft - config.n_fft // 2
    rest = np.zeros(before, dtype=np.float32)
    for block in blocks:
        mono = block.mean(axis=0, dtype=np.float64).astype(np.float32)
        rest = np.concatenate([rest, mono])
        frames = (len(rest) - config.n_fft) // config.hop + 1
        if frames > 0:
            yield rest[: (frames - 1) * config.hop + config.n_fft]
            rest = rest[frames * config.hop :]
    tail = np.concatenate([rest, np.zeros(after, dtype=np.float32)])
    if len(tail) >= config.n_fft:
        yield tail
