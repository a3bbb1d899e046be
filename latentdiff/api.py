"""latentdiff from Python: load a run, draw clips, encode, decode and evaluate.

Everything here is also a command; see `latentdiff --help`. Shapes: n clips, D latent dimensions, N
audio samples, T latent frames.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentdiff import audio, config, runs, streaming
from latentdiff.audio.wav import wav_bytes
from latentdiff.conditions.registry import options
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.model.condition_inputs import ConditionInput, as_condition
from latentdiff.model.condition_maker import ConditionMaker
from latentdiff.model.evaluate import (
    EvaluationResult,
    EvaluationSettings,
    choose_clips,
    evaluate_model,
)
from latentdiff.model.model import Model
from latentdiff.model.project import Project, resolve
from latentdiff.model.resolve import find_codec, open_codec, open_model, require_codec
from latentdiff.model.sampling import draw
from latentdiff.model.variation import STRENGTH, Variation
from latentdiff.rave.codec import RaveCodec
from latentdiff.runs import Run
from latentdiff.training import checkpoint
from latentdiff.training.data import generator_for
from latentdiff.training.fabric import pick_device

Words = str | int | float | Path | Sequence[str | Path]
"""What a condition is asked for with; see `Generator.sample`."""
Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Clips:
    """Sounds of one length; behaves as an array where NumPy expects one.

    >>> clips = Clips(np.zeros((2, 1, 8000), np.float32), sample_rate=8000)
    >>> clips.shape, clips.seconds
    ((2, 1, 8000), 1.0)
    >>> clips[0].shape
    (1, 8000)
    """

    audio: Audio
    """[n, channels, N], nominally within -1..1."""
    sample_rate: int
    """Hz."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, N)."""
        return self.audio.shape

    @property
    def seconds(self) -> float:
        """Duration of each clip."""
        return self.audio.shape[-1] / self.sample_rate

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: Any) -> Audio:
        chosen: Audio = self.audio[index]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.audio if dtype is None else self.audio.astype(dtype)
        return array.copy() if copy else array

    def save(self, path: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write one file per clip and return their paths.

        `path` ends in .wav or .flac: that file; of several clips `song-0.wav`, `song-1.wav`, ....
        Any other path is a folder for `0.wav`, `1.wav`, .... Raises UserError where a file exists,
        unless `overwrite`.

        >>> clips = Clips(np.zeros((2, 1, 8000), np.float32), sample_rate=8000)
        >>> [path.name for path in clips.save(folder / "song.flac")]
        ['song-0.flac', 'song-1.flac']
        """
        path = Path(path)
        kind: audio.AudioFormat = "flac" if path.suffix.lower() == ".flac" else "wav"
        if path.suffix.lower() not in (".wav", ".flac"):
            paths = [path / f"{k}.wav" for k in range(len(self))]
        elif len(self) == 1:
            paths = [path]
        else:
            paths = [path.with_name(f"{path.stem}-{k}{path.suffix}") for k in range(len(self))]
        existing = [str(path) for path in paths if path.exists()]
        if existing and not overwrite:
            raise UserError(
                f"{existing[0]} exists already", do_this="choose another path, or overwrite=True."
            )
        for target, clip in zip(paths, self.audio, strict=True):
            runs.make_directory(target.parent)
            audio.write(target, [clip], self.sample_rate, kind)
        return paths

    def _repr_html_(self) -> str:
        """A player for each clip, for notebooks."""
        return "\n".join(_player(clip, self.sample_rate) for clip in self.audio)


class Generator:
    """A trained run, ready to make sound; `latentdiff.load` makes one."""

    def __init__(
        self, run: Run, project: Project, model: Model, rave: Path | None, ckpt: str | None
    ) -> None:
        self.run, self.model = run, model
        self._project, self._rave, self._ckpt = project, rave, ckpt

    def __repr__(self) -> str:
        kinds = ", ".join(self.model.kinds)
        follows = f"conditions: {kinds}" if kinds else "no condition"
        return f"<latentdiff generator {self.model.path}, step {self.model.step}, {follows}>"

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.model.codec.sample_rate

    @property
    def labels(self) -> list[str]:
        """Label vocabulary; empty if the model is not conditioned on labels."""
        return list(self.model.labels)

    @cached_property
    def codec(self) -> RaveCodec:
        """The codec of its latents, opened on first use. Raises UserError where it is missing."""
        recorded = Path(self.model.spec.codec_path) if self.model.spec.codec_path else None
        device = str(self.model.device)
        # RAVE draws its initial weights before it loads the trained ones.
        with torch.random.fork_rng(devices=[]):
            codec = find_codec(self.run, recorded, self._rave, self._ckpt, device)
        if codec is None:
            raise UserError(
                f"the codec of {self.model.path} was not found",
                why=f"during training it was at {recorded}"
                if recorded
                else "the model does not record it",
                do_this="name it: latentdiff.load(run, rave=...).",
            )
        dimensions = self.model.whitening.dimensions
        require_codec(codec, self.model.codec, dimensions, f"the latents of {self.model.path}")
        return codec

    def sample(
        self,
        seconds: float = 10.0,
        n: int = 1,
        seed: int = 0,
        *,
        condition: Words = (),
        **settings: Any,
    ) -> Clips:
        """Draw `n` clips with seeds `seed`, `seed` + 1, ..., as sound.

        A clip depends on the model, the settings, its seed, length and condition, and on nothing
        else. `condition`: a label, or a recording to follow; a model of both takes one of each.
        `settings`: those of the `sampling` section, such as `steps=64` or `guidance=3`, and the
        options of `latentdiff sample` for conditions, such as `style="song.wav"` or `bpm=125`; what
        is not asked for is taken from a training file that the seed picks. Raises UserError where
        the model cannot follow the condition, ConfigError for a bad setting.

        >>> clips = model.sample(seconds=0.5, n=2, seed=3)
        >>> clips.shape, clips.sample_rate
        ((2, 1, 4032), 8000)
        """
        return self.decode(self.sample_latents(seconds, n, seed, condition=condition, **settings))

    def sample_latents(
        self,
        seconds: float = 10.0,
        n: int = 1,
        seed: int = 0,
        *,
        condition: Words = (),
        **settings: Any,
    ) -> Audio:
        """Raw latents [n, D, T]; see `sample`.

        >>> model.sample_latents(seconds=0.5).shape
        (1, 6, 63)
        """
        maker, sampling = self._asked(settings)
        given = self._input(maker, condition, seconds)
        seeds = [seed + k for k in range(n)]
        frames = given.frames or self.model.spec.frames(seconds)
        follows = [maker.complete(given, number, frames) for number in seeds]
        final = draw(self.model, sampling, seeds, frames, as_condition(follows)).latents
        raw = [
            self.model.unwhiten(x, sampling.fill, generator_for(seed, "fill"))
            for seed, x in zip(seeds, final, strict=True)
        ]
        return torch.stack(raw).numpy()

    def vary(
        self,
        sound: str | Path | Audio,
        strength: float = STRENGTH,
        n: int = 1,
        seed: int = 0,
        *,
        seconds: float | None = None,
        sample_rate: int | None = None,
        **settings: Any,
    ) -> Clips:
        """Variations of a recording: a file, or samples [N] or [channels, N] at `sample_rate`.

        `strength`: 0 gives back what the codec makes of it, 1 a new clip that only follows it: its
        style and beat, where the model knows these and `settings` ask for no others. `settings`: as
        for `sample`. Raises UserError where the model cannot vary it, AudioError where a file
        cannot be read.

        >>> model.vary(np.zeros(8000, np.float32), strength=0.3).shape
        (1, 1, 8000)
        """
        maker, sampling = self._asked(settings)
        with self._as_file(sound, sample_rate) as path:
            varies = Variation.of(self.model, self.codec, path, strength, seconds)
            (given,) = varies.following([ConditionInput()])
            seeds = [seed + k for k in range(n)]
            follows = [maker.complete(given, number, varies.frames) for number in seeds]
        start = varies.start(n)
        final = draw(self.model, sampling, seeds, varies.frames, as_condition(follows), start)
        return self.decode(torch.stack([varies.raw(self.model, x) for x in final.latents]).numpy())

    def _asked(self, settings: dict[str, Any]) -> tuple[ConditionMaker, SamplingConfig]:
        """Keywords as options of condition kinds and settings of sampling."""
        known = {option.name for _, option in options()}
        asked = {name: _words(settings.pop(name)) for name in known & settings.keys()}
        return ConditionMaker(self.model, asked, lambda: self.codec), self._settings(settings)

    @contextmanager
    def _as_file(self, sound: str | Path | Audio, sample_rate: int | None) -> Iterator[Path]:
        """A file that holds the sound."""
        if isinstance(sound, (str, Path)):
            yield Path(sound)
            return
        samples = self._samples(np.atleast_2d(np.asarray(sound, np.float32)), sample_rate)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "sound.wav"
            audio.write(path, samples, self.codec.sample_rate, subtype="FLOAT")
            yield path

    def encode(self, sound: str | Path | Audio, sample_rate: int | None = None) -> Audio:
        """Latents [D, T] of a recording: a file, or samples [N] or [channels, N] at `sample_rate`.

        Samples are taken to be at the codec's rate where `sample_rate` is None. Raises AudioError
        where a file cannot be read, UserError for another sample rate or number of channels.

        >>> model.encode(np.zeros(8000, np.float32)).shape
        (6, 125)
        """
        if isinstance(sound, (str, Path)):
            samples, _ = audio.read(Path(sound), self.codec.sample_rate, self.codec.channels)
        else:
            samples = self._samples(np.atleast_2d(np.asarray(sound, np.float32)), sample_rate)
        return streaming.encode(self.codec, samples)[0]

    def decode(self, latents: Audio) -> Clips:
        """Sound of raw latents [n, D, T] or [D, T].

        >>> model.decode(np.zeros((6, 125), np.float32)).shape
        (1, 1, 8000)
        """
        batch = np.asarray(latents, np.float32)
        batch = batch[None] if batch.ndim == 2 else batch
        if batch.ndim != 3 or batch.shape[1] != self.codec.latent_dim:
            raise UserError(
                f"latents must be [n, {self.codec.latent_dim}, T], not {list(batch.shape)}",
                do_this="transpose arrays that are [frames, dimensions].",
            )
        clips = [streaming.decode(self.codec, z) for z in batch]
        return Clips(np.stack(clips).astype(np.float32), self.codec.sample_rate)

    def evaluate(
        self,
        n: int = 32,
        seconds: float | None = None,
        seed: int = 0,
        *,
        latents: str | Path | None = None,
        compare_steps: Sequence[int] = (),
        **sampling: Any,
    ) -> EvaluationResult:
        """Measure the model on held-out files, and `n` samples of it beside training clips.

        Nothing is written. `latents`: the latents it was trained on, in case they were moved.
        `seconds`: length of a sample; None: sampling.seconds. `compare_steps`: further numbers of
        sampler steps to score. `sampling`: as for `sample`. Without a codec only latents are
        compared. Raises UserError if the latents are missing, of another codec, or too short.

        >>> found = model.evaluate(n=8, seconds=0.5)
        >>> -1 < found.held_out.skill < 1, found.samples
        (True, 8)
        """
        settings = EvaluationSettings(
            sampling=self._settings(sampling),
            training=self._project.training,
            latents=self._project.latents,
            seed=seed,
            n=n,
            seconds=seconds,
            steps=tuple(compare_steps),
        )
        device, where = str(self.model.device), None if latents is None else Path(latents)
        with torch.random.fork_rng(devices=[]):
            model, store = open_model(self.run, self.model.path, where, device)
            codec = open_codec(self.run, store, self._rave, self._ckpt, device)
        return evaluate_model(model, store, choose_clips(model, store, settings), codec, settings)

    def _settings(self, given: dict[str, Any]) -> SamplingConfig:
        values = config.merge(self._project.sampling.model_dump(mode="json"), given)
        return config.build(SamplingConfig, values, source="sample()", given=given)

    def _input(self, maker: ConditionMaker, condition: Words, seconds: float) -> ConditionInput:
        """The condition that all clips follow. Raises UserError if there is not exactly one."""
        inputs, skipped = maker.given([Path(word) for word in _words(condition)], seconds)
        if skipped or len(inputs) != 1:
            raise UserError(
                "sample() takes one condition at a time",
                why="; ".join(skipped) or f"{len(inputs)} were given",
                do_this="call sample() once for each condition.",
            )
        return inputs[0]

    def _samples(self, samples: Audio, sample_rate: int | None) -> Audio:
        wanted = self.codec.sample_rate, self.codec.channels
        actual = sample_rate or self.codec.sample_rate, len(samples)
        if actual != wanted:
            raise UserError(
                f"samples must be {wanted[1]} channel(s) at {wanted[0]} Hz",
                why=f"these are {actual[1]} at {actual[0]} Hz",
                do_this="resample them, or give the file's path: encode(path) does both.",
            )
        return samples


def load(
    run: str | Path,
    *,
    rave: str | Path | None = None,
    ckpt: str | None = None,
    device: str = "auto",
) -> Generator:
    """See `latentdiff.load`."""
    found = checkpoint.find(Path(run))
    model = Model.load(found, pick_device(device))
    # RUN/diffusion/checkpoints/best.safetensors; a file that was copied elsewhere has no run.
    inside = found.parent.name == checkpoint.FOLDER
    home = Run(found.parent.parent.parent if inside else found.with_suffix(""))
    return Generator(home, resolve(home), model, None if rave is None else Path(rave), ckpt)


def _words(given: Words) -> tuple[str, ...]:
    if isinstance(given, (str, int, float, Path)):
        return (str(given),)
    return tuple(map(str, given))


def _player(clip: Audio, sample_rate: int) -> str:
    data = base64.b64encode(wav_bytes(clip, sample_rate)).decode("ascii")
    return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
