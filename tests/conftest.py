"""Fixtures shared by all tests: a codec of twenty lines, and small audio files."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch


class FakeCodec:
    """The lowest `latent_dim` cosines of every `hop` samples: exact on slow signals, no weights."""

    sample_rate, hop, latent_dim, channels = 8000, 64, 8, 1
    fingerprint = "f" * 64
    encode_context = decode_context = (0, 0)

    def __init__(self, channels: int = 1) -> None:
        self.channels = channels
        k, n = torch.arange(self.latent_dim)[:, None], torch.arange(self.hop)
        basis = torch.cos(math.pi * (n + 0.5) * k / self.hop) * math.sqrt(2 / self.hop)
        basis[0] /= math.sqrt(2)
        self.basis = basis  # [D, hop], orthonormal rows

    def encode(self, audio):
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.hop))
        frames = audio.mean(1).unflatten(-1, (-1, self.hop))  # [B, T, hop]
        mean = torch.einsum("dn,btn->bdt", self.basis, frames)
        return mean, torch.full_like(mean, 0.01)

    def decode(self, z):
        audio = torch.einsum("dn,bdt->btn", self.basis, z).flatten(1)
        return audio[:, None].repeat(1, self.channels, 1)


@pytest.fixture(autouse=True)
def logging_as_before():
    """The command line sets up our logger, which must not change what the next test sees."""
    ours = logging.getLogger("latentdiff")
    before = ours.level, ours.propagate, list(ours.handlers)
    yield
    ours.level, ours.propagate, ours.handlers = before


@pytest.fixture
def fake_codec():
    return FakeCodec()


@pytest.fixture
def codec(monkeypatch, fake_codec, tmp_path):
    """The fake codec, which `RaveCodec.open` gives too."""
    from latentdiff.rave.codec import RaveCodec
    from latentdiff.rave.load import Origin

    fake_codec.origin = Origin(tmp_path / "codec.ckpt", 1, 1)
    monkeypatch.setattr(RaveCodec, "open", staticmethod(lambda *_: fake_codec))
    return fake_codec


@pytest.fixture
def write_wav():
    """Writes sound [N] or [channels, N] to a file and returns its path; parents are made."""
    import soundfile

    def write(path, samples, sample_rate=8000, subtype=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), np.atleast_2d(samples).T, sample_rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def melody():
    """A slow, seeded tune [N] of decaying notes below 450 Hz, peak about 0.5."""

    def make(seconds, sample_rate=8000, seed=0):
        rng = np.random.default_rng(seed)
        t = np.arange(round(seconds * sample_rate)) / sample_rate
        note = (t // 0.25).astype(int)
        pitch = 110 * 2 ** (rng.integers(0, 24, note.max(initial=0) + 1)[note] / 12)
        return (0.5 * np.exp(-4 * (t % 0.25)) * np.sin(2 * np.pi * pitch * t)).astype(np.float32)

    return make


@pytest.fixture
def audio_folder(tmp_path, write_wav, melody):
    """Six tunes of 1 to 3 seconds at 8 kHz in two folders, two of one name."""
    root = tmp_path / "music"
    for i in range(6):
        name = "same.wav" if i in (0, 3) else f"tune {i}.wav"
        write_wav(root / ("a" if i < 3 else "b") / name, melody(1 + 0.4 * i, seed=i))
    return root


@pytest.fixture(scope="session")
def make_rave_run():
    """Writes a run as `rave train` leaves it: a tiny RAVE, random weights, 8 kHz, hop 64."""

    def make(
        folder,
        *,
        configs=("v2",),
        ratios=(4, 2, 2),
        channels=1,
        steps=(7,),
        names=("epoch.ckpt",),
        seed=0,
    ):
        from latentdiff.rave import compat
        from latentdiff.rave.gin_config import assemble
        from latentdiff.rave.settings import RaveConfig

        settings = RaveConfig(
            configs=list(configs), capacity=4, latent_size=6, n_band=4, ratios=list(ratios)
        )
        with compat.isolated_gin(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = assemble(settings, 8000, channels)
        for value in built.model.state_dict().values():
            if value.ndim == 3:
                value.mul_(2)  # louder than RAVE starts: differences must show
        checkpoints = folder / "version_0" / "checkpoints"
        checkpoints.mkdir(parents=True)
        # `rave train` does not write the channels.
        lines = [line for line in built.text.splitlines() if "RAVE.n_channels" not in line]
        (folder / "config.gin").write_text("\n".join(lines))
        for step, name in zip(steps, names, strict=True):
            state = {"state_dict": built.model.state_dict(), "global_step": step, "callbacks": {}}
            torch.save(state, checkpoints / name)
        return folder

    return make


@pytest.fixture(scope="session")
def rave_run(make_rave_run, tmp_path_factory):
    """One such run, of v2, shared by all tests: do not write into it."""
    return make_rave_run(tmp_path_factory.mktemp("rave") / "tiny_a1b2c3")


def resonance(rng, frames, channels=2):
    """[channels, T] of an AR(2) process with a resonance, of unit variance."""
    noise = rng.standard_normal((channels, frames + 200))
    z = np.zeros_like(noise)
    for t in range(2, frames + 200):
        z[:, t] = 1.815 * z[:, t - 1] - 0.9025 * z[:, t - 2] + noise[:, t]
    return z[:, 200:] / 8.4


@pytest.fixture(scope="session")
def make_store():
    """Writes a latent store at 8 kHz, hop 64: 2 directions of sound in 6, the rest posterior noise.

    The sound is a resonance, or white along time. `mel`: its first direction is stored as the
    spectrogram. `labels`: files are labelled `even` and `odd` in turn.
    """

    def make(
        root, *, files=10, held_out=2, frames=300, white=False, mel=False, labels=False, seed=0
    ):
        from latentdiff import runs
        from latentdiff.conditions.mel import Mel
        from latentdiff.conditions.settings import ConditionConfig
        from latentdiff.latents import statistics
        from latentdiff.latents.store import Entry
        from latentdiff.runs import Input, Stage

        rng = np.random.default_rng(seed)
        mixing = np.linalg.qr(np.random.default_rng(99).standard_normal((6, 6)))[0][:, :2]
        settings = json.dumps(Mel.of(ConditionConfig()).identity())
        inputs = {"codec": Input("codec", "c" * 64), "condition.mel": Input(settings, "m")}
        with Stage(root, "encode", inputs=inputs) as stage:
            accumulator, rows = statistics.StatisticsAccumulator(), []
            for i in range(files):
                sound = rng.standard_normal((2, frames)) if white else resonance(rng, frames)
                z = 3 * mixing @ sound + 0.1 * rng.standard_normal((6, frames)) + 5
                split = "validation" if i < held_out else "train"
                np.save(root / f"{i}.npy", z.astype(np.float32))
                if mel:
                    np.save(root / f"mel{i}.npy", (sound[:1] + 0.1).astype(np.float32))
                if split == "train":
                    accumulator.update(z, np.full_like(z, 0.3))
                entry = Entry(
                    f"a/{i}.wav",
                    source=None,
                    split=split,
                    samples=frames * 64,
                    frames=frames,
                    mean=f"{i}.npy",
                    mel=f"mel{i}.npy" if mel else None,
                    label=("even", "odd")[i % 2] if labels else None,
                )
                rows.append(entry.row())
            accumulator.finish().save(root / "stats.safetensors")
            runs.write_jsonl(root / "manifest.jsonl", rows)
            stage.record(sample_rate=8000, hop=64, latent_dim=6, channels=1)
        return root

    return make


@pytest.fixture(scope="session")
def make_model():
    """Writes the checkpoint of a model with random weights, as training would leave it.

    `gain`: deviation of the weights; 0 leaves them as an untrained network has them. By default a
    tiny network on 2 directions of 6, of a codec at 8 kHz with hop 64.
    """

    def make(
        path,
        *,
        network=None,
        diffusion=None,
        condition=None,
        codec=None,
        codec_path="/some/codec.ckpt",
        labels=(),
        references=None,
        window=32,
        whitening=None,
        variance=None,
        gain=0.1,
        step=7,
    ):
        from dataclasses import replace

        from latentdiff import config
        from latentdiff.conditions.kind import FeatureKind, condition_kind
        from latentdiff.conditions.references import References
        from latentdiff.conditions.settings import ConditionConfig
        from latentdiff.conditions.standardiser import Standardiser
        from latentdiff.diffusion.settings import DiffusionConfig
        from latentdiff.latents.store import CodecFacts
        from latentdiff.latents.whitening import Whitening
        from latentdiff.model.model import Model
        from latentdiff.model.spec import ModelSpec
        from latentdiff.networks.settings import NetworkConfig

        if whitening is None:
            generator = torch.Generator().manual_seed(1)
            directions = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0][:2]
            scale = torch.tensor([3.0, 0.5])
            whitening = Whitening(torch.arange(6.0), directions, scale, variance)
        condition = config.build(ConditionConfig, condition or {"kinds": "none"})
        standardisers = {}
        for name in condition.chosen:
            kind = condition_kind(name, condition)
            size = kind.size if isinstance(kind, FeatureKind) else 2 * whitening.channels
            if name != "label":
                arrays = np.zeros(size, np.float32), np.ones(size, np.float32)
                standardisers[name] = Standardiser(*arrays)
        spec = ModelSpec(
            config.build(NetworkConfig, network or {"name": "tiny", "channels": 8}),
            config.build(DiffusionConfig, diffusion or {}),
            condition,
            codec or CodecFacts("c" * 64, sample_rate=8000, hop=64, latent_dim=6, channels=1),
            codec_path,
            list(labels),
            window,
        )
        model = Model.create(spec, whitening, standardisers, references or References())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for weight in model.denoiser.parameters() if gain else ():
                torch.nn.init.normal_(weight, std=gain)
        replace(model, step=step).save(path)
        return path

    return make
