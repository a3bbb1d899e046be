"""What a model sounds like while it trains, from step 0 on.

Shapes: B samples, C latent channels, D latent dimensions of the codec, H height and W width of a
picture, K condition features, N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentdiff import audio as sound
from latentdiff import runs, streaming
from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.settings import MelConfig
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.evaluation.reconstruction import excerpt
from latentdiff.evaluation.sound import level_db
from latentdiff.latents.store import Entry, LatentStore
from latentdiff.model.condition_inputs import ConditionInput, as_condition, stored_input
from latentdiff.model.model import Model
from latentdiff.model.project import Project
from latentdiff.model.resolve import open_codec
from latentdiff.runs import Run
from latentdiff.specs import Codec
from latentdiff.tracking import Tracker, encode_png
from latentdiff.tracking.mosaic import stacked_latents, stacked_spectrograms
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FOLDER = "demos"
REFERENCES = "references"
LATENTS = "latents.png"
SHARE = 0.03
"""Largest share of the time since the first demo that later demos may take. The first, which loads
the codec, is always made."""
GROWTH = 1.05
"""Factor by which steps must grow from demo to demo: about 150 demos in a week of training."""
CHANNELS = 16
"""Latent channels that get a histogram of their own; the first ones vary most."""
FRAMES = 1 << 14
"""Training latents (frames) that histograms are computed from."""
SILENCE_DB = -120.0
"""Stands for digital silence, which no curve could show."""
PICTURE = MelConfig(n_fft=2048, hop=512, bands=64)


@dataclass(frozen=True)
class Reference:
    """An excerpt of a recording to compare demos with."""

    entry: Entry
    first: int
    """First latent frame of the excerpt."""
    latents: np.ndarray
    """[D, T], raw."""
    input: ConditionInput
    """Conditions of the excerpt."""


def references(model: Model, store: LatentStore, count: int, seconds: float) -> list[Reference]:
    """`count` stretches of equal length, of `seconds` where the recordings are long enough.

    Of held-out files, or of training files where none is held out: from their beginnings on, and
    where there are fewer files than stretches, one stretch after the other.
    """
    wanted = max(1, round(seconds * model.codec.frame_rate))
    entries = store.of("validation") or store.of("train")
    longest = sorted(entries, key=lambda entry: -min(entry.frames, wanted))[:count]
    frames = min(wanted, *(entry.frames for entry in longest))
    turns = [divmod(k, len(longest)) for k in range(count)]
    return [_reference(model, store, longest[file], turn * frames, frames) for turn, file in turns]


def _reference(
    model: Model, store: LatentStore, entry: Entry, first: int, frames: int
) -> Reference:
    first = min(first, entry.frames - frames)
    latents = np.array(store.mean(entry)[:, first : first + frames], dtype=np.float32)
    return Reference(entry, first, latents, stored_input(model, store, entry, first, frames))


class Demos:
    """Called with (step, averaged denoiser, tracker): draws, decodes and shows samples.

    Sounds and pictures are also written to `directory`. The samples have the same seeds each time
    and follow the same references, so that only the weights change from demo to demo. `every`
    None: a demo is made when called, unless demos after the first have taken more than SHARE of
    the time, or training has not yet grown by GROWTH since the last. `open_codec` returns the
    codec, or None where only latents can be shown.

    A demo that fails does not end the training; the first failure is logged.
    """

    def __init__(
        self,
        directory: Path,
        model: Model,
        store: LatentStore,
        sampling: SamplingConfig,
        open_codec: Callable[[], Codec | None],
        *,
        count: int = 4,
        seconds: float = 5.0,
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        self._directory = directory
        self._model, self._store = model, store
        self._sampling = sampling
        self._open_codec = open_codec
        self._count = count
        self._seconds = seconds
        self._every = every
        self._seeds = [seed + k for k in range(count)]
        self._warned = False
        self._began = 0.0
        self._last_step: int | None = None
        self._last_cost = 0.0
        self.spent = 0.0
        """Seconds that demos after the first one have taken."""

    def __call__(self, step: int, denoiser: nn.Module, tracker: Tracker) -> None:
        """A demo at `step`, where it is affordable."""
        if not self._due(step):
            return
        began = time.monotonic()
        model = replace(self._model, denoiser=denoiser, step=step)  # type: ignore[arg-type]
        cuda = [model.device] if model.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda), torch.no_grad():
                self._show(model, tracker)
        except Exception as error:
            # A week of training must not end for a sound that cannot be written.
            if not self._warned:
                reason = f"{type(error).__name__}: {error}"
                log.warning("no demo at step %d, training goes on: %s", step, reason)
            self._warned = True
        now = time.monotonic()
        if self._last_step is None:
            self._began = now
        else:
            self.spent += now - began
        self._last_step = step

    def _due(self, step: int) -> bool:
        if not self._count:
            return False
        if self._every is not None or self._last_step is None:
            return True
        elapsed = time.monotonic() - self._began
        affordable = self.spent + self._last_cost <= SHARE * elapsed
        return affordable and step >= GROWTH * self._last_step

    def _show(self, model: Model, tracker: Tracker) -> None:
        step = model.step
        if step == 0 or not (self._directory / REFERENCES / LATENTS).exists():
            self._show_references(step, tracker)
        began = time.monotonic()
        x = self._draw(model)
        _show_channels(tracker, step, "latents of samples", x)
        folder = self._directory / f"step-{step:06d}"
        runs.make_directory(folder)
        self._show_picture(tracker, step, folder / LATENTS, stacked_latents(x.numpy()))
        values = {"spread": float(x.square().mean().sqrt())}
        if self._codec is not None:
            clips = {f"sample {k}": self._decode(x[k], k) for k in range(len(x))}
            self._show_sound(tracker, step, folder, clips)
            loudness = level_db(np.concatenate(list(clips.values()), axis=-1))
            values["level_db"] = max(loudness, SILENCE_DB)
        # Without the references and the loading of the codec, which the next one will not need.
        values["seconds"] = self._last_cost = time.monotonic() - began
        tracker.scalars(step, values, prefix="demo/")
        log.debug("demo at step %d: %s", step, folder)

    @cached_property
    def _codec(self) -> Codec | None:
        return self._open_codec()

    @cached_property
    def _references(self) -> list[Reference]:
        return references(self._model, self._store, self._count, self._seconds)

    def _draw(self, model: Model) -> Tensor:
        """Final latents [B, C, T], on the CPU."""
        condition = as_condition([reference.input for reference in self._references])
        frames = self._references[0].latents.shape[1]
        return model.sample(self._sampling, self._seeds, frames, condition).latents

    def _decode(self, x: Tensor, number: int) -> np.ndarray:
        """Final latents [C, T] of the clip of that number => sound [channels, N]."""
        assert self._codec is not None
        fill = torch.Generator().manual_seed(self._seeds[number])
        latents = self._model.unwhiten(x, self._sampling.fill, fill)
        return streaming.decode(self._codec, latents.numpy())

    def _show_references(self, step: int, tracker: Tracker) -> None:
        """Show once what the model learns from: latents, original audio, and its reconstruction."""
        _show_channels(tracker, step, "latents of training files", self._training_latents())
        references = self._references
        final = torch.stack([self._model.whiten(torch.from_numpy(r.latents)) for r in references])
        folder = self._directory / REFERENCES
        runs.make_directory(folder)
        if self._codec is not None:
            self._show_sound(tracker, step, folder, self._reference_clips(final))
        # Written last: a resumed training takes it as the sign that all files are there.
        self._show_picture(tracker, step, folder / LATENTS, stacked_latents(final.numpy()))

    def _reference_clips(self, final: Tensor) -> dict[str, np.ndarray]:
        """Sounds by name, of the references' final latents [B, C, T]."""
        clips = {}
        for k, reference in enumerate(self._references):
            clips[f"reference {k} reconstruction"] = self._decode(final[k], k)
            original = self._original(reference)
            if original is not None:
                clips[f"reference {k} original"] = original
        return clips

    def _training_latents(self) -> Tensor:
        """Final latents [C, T] of some of the training files."""
        entries, latents, frames = self._store.of("train"), [], 0
        for entry in entries:
            share = max(1, FRAMES // len(entries))
            raw = np.array(self._store.mean(entry)[:, :share], dtype=np.float32)
            latents.append(self._model.whiten(torch.from_numpy(raw)))
            frames += raw.shape[1]
            if frames >= FRAMES:
                break
        return torch.cat(latents, dim=1)

    def _original(self, reference: Reference) -> np.ndarray | None:
        """[channels, N]; None where the recording has gone."""
        assert self._codec is not None
        entry = reference.entry
        if entry.source is None or entry.samples is None or not Path(entry.source).is_file():
            return None
        hop = self._codec.hop
        return excerpt(entry, self._codec, reference.latents.shape[1] * hop, reference.first * hop)

    def _show_sound(
        self, tracker: Tracker, step: int, folder: Path, clips: dict[str, np.ndarray]
    ) -> None:
        """Sounds [channels, N] by name: as files, to hear, and as one picture."""
        assert self._codec is not None
        rate = self._codec.sample_rate
        for name, clip in clips.items():
            sound.write(folder / f"{name.replace(' ', '-')}.wav", clip, rate)
            tracker.audio(step, f"demo/{name}", np.clip(clip, -1, 1), rate)
        settings = PICTURE.model_copy(update={"sample_rate": rate})
        mels = [mel_of_blocks([clip], settings) for clip in clips.values()]
        self._show_picture(tracker, step, folder / "spectrograms.png", stacked_spectrograms(mels))

    def _show_picture(self, tracker: Tracker, step: int, path: Path, image: np.ndarray) -> None:
        with runs.atomic(path) as partial:
            partial.write_bytes(encode_png(image))
        name = path.stem if path.parent.name != REFERENCES else f"{REFERENCES} {path.stem}"
        tracker.picture(step, f"demo/{name}", image)


def demos_of(run: Run, project: Project, model: Model, store: LatentStore) -> Demos:
    """The demos of a run's training, as the settings ask for them."""
    training = project.training
    return Demos(
        run.diffusion / FOLDER,
        model,
        store,
        project.sampling,
        lambda: _codec(run, store, pick_device(project.device)),
        count=training.demo_samples,
        seconds=training.demo_seconds,
        every=training.demo_every,
        seed=project.seed,
    )


def _codec(run: Run, store: LatentStore, device: str) -> Codec | None:
    """The codec of the latents, or None, with a warning, where there is none to be had."""
    try:
        codec, reason = open_codec(run, store, device=device), "their codec was not found"
    except UserError as error:
        codec, reason = None, error.what
    if codec is None:
        log.warning("demos show latents but make no sound: %s", reason)
    return codec


def _show_channels(tracker: Tracker, step: int, name: str, x: Tensor) -> None:
    """Histograms of final latents [..., C, T] (unit variance in training), by channel."""
    for channel in range(min(CHANNELS, x.shape[-2])):
        tracker.histogram(step, f"{name}/channel {channel:02d}", x[..., channel, :])
