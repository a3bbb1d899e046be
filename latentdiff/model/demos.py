"""What a model sounds like while it trains, from step 0 on.

Shapes: B samples, C latent channels, D latent dimensions of the codec, H height and W width of a
picture, K condition features, N audio samples, T latent frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentdiff import audio as sound
from latentdiff import runs, streaming
from latentdiff.conditions.mel import mel_of_blocks
from latentdiff.conditions.settings import MelConfig
from latentdiff.conditions.standardiser import Standardiser
from latentdiff.diffusion.noise import Schedule
from latentdiff.diffusion.settings import SamplingConfig
from latentdiff.errors import UserError
from latentdiff.evaluation.reconstruction import excerpt
from latentdiff.evaluation.sound import level_db
from latentdiff.latents.store import CodecFacts, Entry, LatentStore
from latentdiff.latents.whitening import Whitening
from latentdiff.model.project import Project
from latentdiff.notebook.experiments import sampling
from latentdiff.notebook.experiments.settings import NO_EXPERIMENT, ExperimentConfig
from latentdiff.rave.codec import RaveCodec
from latentdiff.specs import Codec, Condition
from latentdiff.tracking import Tracker, encode_png
from latentdiff.tracking.mosaic import stacked_latents, stacked_spectrograms
from latentdiff.training.fabric import pick_device

log = logging.getLogger(__name__)

FOLDER = "demos"
REFERENCES = "references"
LATENTS = "latents.png"
SHARE = 0.03
"""Of the time since the first demo that later ones may take; then they wait. The first one, for
which the codec is loaded, always comes."""
GROWTH = 1.05
"""By so much training must have gone on since the last demo: a week of it is some 150 demos."""
CHANNELS = 16
"""Latent channels that get a histogram of their own; the first ones vary most."""
FRAMES = 1 << 14
"""Of the training latents that histograms are made from."""
SILENCE_DB = -120.0
"""Stands for digital silence, which no curve could show."""
PICTURE = MelConfig(n_fft=2048, hop=512, bands=64)


@dataclass(frozen=True)
class Reference:
    """A stretch of a recording that demos stand beside."""

    entry: Entry
    first: int
    """Its first latent frame."""
    latents: np.ndarray
    """[D, T], raw."""
    features: np.ndarray | None
    """[K, T], standardised; None where the model follows none."""
    label: int | None


@dataclass(frozen=True)
class Subject:
    """What demos need to know about a training."""

    store: LatentStore
    whitening: Whitening
    schedule: Schedule
    codec: CodecFacts
    standardiser: Standardiser | None
    """Of the condition features; None where the model follows none."""
    labels: Sequence[str]
    """Names of the labels it follows; empty where it follows none."""
    experiment: ExperimentConfig = NO_EXPERIMENT

    def references(self, count: int, seconds: float) -> list[Reference]:
        """`count` stretches of equal length, of `seconds` where the recordings are so long.

        Of held-out files, or of the training files where none is held out: from their beginnings
        on, where there are fewer files one stretch after the other.
        """
        wanted = max(1, round(seconds * self.codec.sample_rate / self.codec.hop))
        entries = self.store.of("validation") or self.store.of("train")
        longest = sorted(entries, key=lambda entry: -min(entry.frames, wanted))[:count]
        frames = min(wanted, *(entry.frames for entry in longest))
        turns = [divmod(k, len(longest)) for k in range(count)]
        return [self._reference(longest[file], turn * frames, frames) for turn, file in turns]

    def _reference(self, entry: Entry, first: int, frames: int) -> Reference:
        first = min(first, entry.frames - frames)
        span = slice(first, first + frames)
        features = None
        if self.standardiser is not None:
            mel = self.store.mel(entry)
            assert mel is not None  # the training has checked that
            features = self.standardiser(np.array(mel[:, span], dtype=np.float32))
        label = None
        if self.labels and entry.label is not None:
            label = list(self.labels).index(entry.label)
        latents = np.array(self.store.mean(entry)[:, span], dtype=np.float32)
        return Reference(entry, first, latents, features, label)


class Demos:
    """Called with (step, averaged model, tracker of the training): draws, decodes, shows samples.

    Sounds and pictures lie in `directory` too.

    The samples have the same seeds each time and follow the same references, so that what changes
    from demo to demo is the model. `every` None: a demo comes when it is asked for and, but for
    the first, demos have taken less than SHARE of the time and training has gone on by GROWTH.
    `open_codec` returns the codec, or None where only latents can be shown.

    Nothing that fails here ends a training: the reason is told once.
    """

    def __init__(
        self,
        directory: Path,
        subject: Subject,
        sampling: SamplingConfig,
        open_codec: Callable[[], Codec | None],
        *,
        count: int = 4,
        seconds: float = 5.0,
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        self._directory = directory
        self._subject = subject
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

    def __call__(self, step: int, model: nn.Module, tracker: Tracker) -> None:
        """A demo at `step`, where it is affordable."""
        if not self._due(step):
            return
        began = time.monotonic()
        device = next(model.parameters()).device
        cuda = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda), torch.no_grad():
                self._show(step, model, device, tracker)
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

    def _show(self, step: int, model: nn.Module, device: torch.device, tracker: Tracker) -> None:
        if step == 0 or not (self._directory / REFERENCES / LATENTS).exists():
            self._show_references(step, tracker)
        began = time.monotonic()
        x = self._draw(model, device)
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
        return self._subject.references(self._count, self._seconds)

    def _draw(self, model: nn.Module, device: torch.device) -> Tensor:
        """Final latents [B, C, T], on the CPU."""
        features = [reference.features for reference in self._references]
        labels = [reference.label for reference in self._references]
        experiment = self._subject.experiment
        x = sampling.sample(
            experiment,
            sampling.as_sampled(experiment, model, self._sampling.steps),
            self._subject.schedule,
            self._sampling,
            self._seeds,
            self._subject.whitening.channels,
            self._references[0].latents.shape[1],
            Condition(
                None if features[0] is None else torch.from_numpy(np.stack(features)).to(device),  # type: ignore[arg-type]
                None if labels[0] is None else torch.tensor(labels, device=device),
            ),
            device,
            variance=self._subject.whitening.variance,
        )
        if not torch.isfinite(x).all():
            raise UserError("the samples hold NaN or infinite values")
        return x.float().cpu()

    def _decode(self, x: Tensor, number: int) -> np.ndarray:
        """Final latents [C, T] of the clip of that number => sound [channels, N]."""
        assert self._codec is not None
        fill = torch.Generator().manual_seed(self._seeds[number])
        latents = self._subject.whitening.unwhiten(x, self._sampling.fill, fill)
        return streaming.decode(self._codec, latents.numpy())

    def _show_references(self, step: int, tracker: Tracker) -> None:
        """What the model learns from, once: latents, originals, and the best it could sound."""
        _show_channels(tracker, step, "latents of training files", self._training_latents())
        references = self._references
        whiten = self._subject.whitening.whiten
        final = torch.stack([whiten(torch.from_numpy(r.latents)) for r in references])
        folder = self._directory / REFERENCES
        runs.make_directory(folder)
        if self._codec is not None:
            self._show_sound(tracker, step, folder, self._reference_clips(final))
        # Last: it tells a continued training that all is there.
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
        entries, found, frames = self._subject.store.of("train"), [], 0
        for entry in entries:
            share = max(1, FRAMES // len(entries))
            raw = np.array(self._subject.store.mean(entry)[:, :share], dtype=np.float32)
            found.append(self._subject.whitening.whiten(torch.from_numpy(raw)))
            frames += raw.shape[1]
            if frames >= FRAMES:
                break
        return torch.cat(found, dim=1)

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


def demos_of(directory: Path, project: Project, subject: Subject, codec_path: str) -> Demos:
    """The demos of a training in `directory`, as the settings want them."""
    training = project.training

    def open_codec() -> Codec | None:
        return codec_of(codec_path, subject.codec, pick_device(project.device))

    return Demos(
        directory / FOLDER,
        subject,
        project.sampling,
        open_codec,
        count=training.demo_samples,
        seconds=training.demo_seconds,
        every=training.demo_every,
        seed=project.seed,
    )


def codec_of(path: str, facts: CodecFacts, device: str) -> Codec | None:
    """The codec that latents remember, or None, with a word on why, where it is not at hand."""
    reason = ""
    if not path or not Path(path).is_file():
        reason = f"the codec of these latents is not at hand ({path or 'not recorded'})"
    else:
        codec = RaveCodec.open(Path(path), device=device)
        if codec.fingerprint == facts.fingerprint:
            return codec
        reason = f"{path} is not the codec of these latents any more"
    log.warning("demos show latents but make no sound: %s", reason)
    return None


def _show_channels(tracker: Tracker, step: int, name: str, x: Tensor) -> None:
    """Histograms of final latents [..., C, T] (unit variance in training), by channel."""
    for channel in range(min(CHANNELS, x.shape[-2])):
        tracker.histogram(step, f"{name}/channel {channel:02d}", x[..., channel, :])
