"""`encode --check` on a healthy codec, and on codecs that should fail."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from latentdiff import streaming, synth
from latentdiff.evaluation import mel
from latentdiff.evaluation.reconstruction import check_reconstruction, compare
from latentdiff.evaluation.sound import level_db
from latentdiff.latents.settings import LatentConfig
from latentdiff.latents.store import Entry, LatentStore

RATE = 8000
SECONDS = 8


def piece(index):
    """[1, N]: the beginning of a piece that quickstart composes, at -20 dBFS."""
    whole = synth.compose(0, index, RATE, seconds=1.5 * SECONDS)
    audio = np.asarray(whole, np.float32)[None, : RATE * SECONDS]
    return audio * np.float32(10 ** ((-20 - level_db(audio)) / 20))


def noise_like(audio):
    """Gaussian noise of the same spectrum: the same magnitudes, random phases."""
    spectrum = np.abs(np.fft.rfft(audio))
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, spectrum.shape)
    return np.fft.irfft(spectrum * np.exp(1j * phases), audio.shape[1]).astype(np.float32)


@pytest.fixture(scope="module")
def original():
    return piece(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


LEVELS = pytest.mark.parametrize("db", [0, -35], ids=["loud", "quiet"])


class TestCompare:
    @LEVELS
    def test_a_healthy_codec_follows(self, original, fake_codec, db):
        quiet = original * np.float32(10 ** (db / 20))
        latents, _ = streaming.encode(fake_codec, quiet)
        decoded = streaming.decode(fake_codec, latents)[:, : quiet.shape[1]]
        found = compare("x", quiet, decoded, RATE)
        assert found.verdict == "follows" and found.correlation > 0.6

    @LEVELS
    @pytest.mark.parametrize(
        ("fake", "verdict"),
        [
            (np.zeros_like, "silent"),
            (lambda audio: audio / 30, "silent"),
            (noise_like, "unrelated"),
            (lambda audio: piece(3) * np.float32(level(audio)), "unrelated"),
            (lambda audio: audio[:, ::-1].copy(), "unrelated"),
        ],
        ids=["silence", "a whisper", "noise of the same spectrum", "another piece", "backwards"],
    )
    def test_fakes_fail_at_any_level(self, original, db, fake, verdict):
        audio = original * np.float32(10 ** (db / 20))
        found = compare("x", audio, fake(audio), RATE)
        assert found.verdict == verdict

    def test_nothing_but_the_levels_depends_on_the_level(self, original):
        other = 0.5 * original + 0.1 * noise_like(original)
        loud, quiet = (compare("x", g * original, g * other, RATE) for g in (1.0, 0.1))
        assert quiet.original_db == pytest.approx(loud.original_db - 20)
        assert quiet.distance == pytest.approx(loud.distance, rel=1e-3)
        assert quiet.distance_of_silence == pytest.approx(loud.distance_of_silence, rel=1e-3)
        assert quiet.correlation == pytest.approx(loud.correlation, rel=1e-3)

    def test_silent_and_steady_recordings_get_no_verdict(self):
        silence = np.zeros((1, RATE), np.float32)
        hiss = 0.1 * np.random.default_rng(0).standard_normal((1, 5 * RATE)).astype(np.float32)
        assert compare("x", silence, silence + 0.1, RATE).verdict is None
        assert compare("x", silence, silence, RATE).original_db == -math.inf
        steady = compare("x", hiss, noise_like(hiss), RATE)
        assert steady.correlation is None and steady.verdict is None
        assert compare("x", hiss, 0 * hiss, RATE).verdict == "silent"

    @pytest.mark.parametrize("samples", [1, 600])
    def test_short_recordings_can_be_compared(self, samples):
        blip = np.full((2, samples), 0.3, np.float32)
        assert compare("x", blip, blip, RATE).distance == 0


class TestCorrelation:
    def test_gain_and_spectrum_do_not_count(self, generator):
        x = 10 * torch.randn(4, 50, generator=generator)
        tilted = 0.5 * x + torch.arange(4.0)[:, None]
        assert mel.correlation(x, tilted) == pytest.approx(1)
        assert mel.correlation(x, -x) == pytest.approx(-1)
        assert abs(mel.correlation(x, x.flip(-1))) < 0.3

    def test_what_does_not_change_has_none(self, generator):
        x = 10 * torch.randn(4, 50, generator=generator)
        assert mel.correlation(x, torch.zeros(4, 50)) == 0
        assert mel.correlation(0.1 * x, x) is None
        assert mel.correlation(x[:, :1], x[:, :1]) is None


def level(audio):
    """Amplitude over that of `piece`."""
    return 10 ** ((level_db(audio) + 20) / 20)


def test_a_codec_that_puts_out_silence_is_named(
    tmp_path, write_wav, original, fake_codec, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    quiet = original * np.float32(0.02)
    path = write_wav(tmp_path / "quiet.wav", quiet, RATE, "FLOAT")
    mean, _ = streaming.encode(fake_codec, quiet)
    np.save(tmp_path / "quiet.npy", mean)
    frames, samples = mean.shape[1], quiet.shape[1]
    entry = Entry("quiet.wav", str(path), "validation", samples, frames, "quiet.npy")
    store = LatentStore(tmp_path, [entry], 8)
    assert [r.verdict for r in check_reconstruction(fake_codec, store, LatentConfig())] == [
        "follows"
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    decode = fake_codec.decode
    monkeypatch.setattr(fake_codec, "decode", lambda z: 0 * decode(z))
    (found,) = check_reconstruction(fake_codec, store, LatentConfig())
    assert found.verdict == "silent" and found.distance == found.distance_of_silence
    assert "quiet.wav is decoded as near-silence" in caplog.text
