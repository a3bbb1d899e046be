"""The measures of an evaluation, held to closed forms and to sets whose truth is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from latentdiff.errors import UserError
from latentdiff.evaluation import embeddings, mel, windows
from latentdiff.evaluation.frechet import Gaussian, distance
from latentdiff.evaluation.places import Places


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def resonance(clips, frames, seed, channels=2):
    """[clips, channels, frames] of an AR(2) process with a resonance, of unit variance."""
    noise = np.random.default_rng(seed).standard_normal((clips, channels, frames + 200))
    z = np.zeros_like(noise)
    for t in range(2, frames + 200):
        z[..., t] = 1.815 * z[..., t - 1] - 0.9025 * z[..., t - 2] + noise[..., t]
    return torch.from_numpy(z[..., 200:] / 8.4).float()


def covariance(seed, size, rank=None):
    root = np.random.default_rng(seed).standard_normal((size, rank or size))
    return torch.from_numpy(root @ root.T / size)


class TestFrechet:
    def test_diagonal_gaussians_in_closed_form(self):
        means = torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 2.0]]).double()
        stds = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 1.0]]).double()
        a, b = (Gaussian(m, s.square().diag()) for m, s in zip(means, stds, strict=True))
        expected = (means[0] - means[1]).square().sum() + (stds[0] - stds[1]).square().sum()
        assert distance(a, b) == pytest.approx(float(expected))

    def test_the_formula_with_scipys_matrix_root(self):
        a = Gaussian(torch.zeros(6).double(), covariance(1, 6))
        b = Gaussian(torch.ones(6).double(), covariance(2, 6))
        root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
        traces = a.covariance.trace() + b.covariance.trace()
        assert distance(a, b) == pytest.approx(6 + float(traces) - 2 * np.trace(root), rel=1e-6)

    def test_symmetric_zero_to_itself_and_fit_for_singular_covariances(self):
        a = Gaussian(torch.zeros(6).double(), covariance(1, 6, rank=2))
        b = Gaussian(torch.zeros(6).double(), covariance(2, 6, rank=3))
        assert distance(a, a) == pytest.approx(0, abs=1e-6)
        assert distance(a, b) == pytest.approx(distance(b, a)) and distance(a, b) > 0.1

    def test_fit_gives_mean_and_covariance(self, generator):
        x = torch.randn(500, 4, generator=generator) * 3 + 1
        fit = Gaussian.fit(x)
        np.testing.assert_allclose(fit.covariance, np.cov(x.numpy().T, bias=True), rtol=1e-5)
        np.testing.assert_allclose(fit.mean, x.mean(0), rtol=1e-5)
        with pytest.raises(ValueError, match="at least 2 windows"):
            Gaussian.fit(x[:1])


class TestWindows:
    def test_clips_lie_edge_to_edge_and_end_in_their_file(self):
        assert windows.cut([10, 3, 8], 4) == [(0, 0), (0, 4), (2, 0), (2, 4)]
        assert windows.cut([3], 4) == []

    def test_spread_is_even_and_complete_where_there_is_room(self):
        assert windows.spread(5, 9) == [0, 1, 2, 3, 4]
        assert windows.spread(9, 3) == [0, 4, 8] and windows.spread(0, 3) == []

    def test_features_are_the_frames_at_the_offsets(self):
        clips = torch.arange(2 * 3 * 40.0).reshape(2, 3, 40)
        found = windows.features(clips)
        assert found.shape == (2 * 8, 3 * len(windows.OFFSETS))
        offsets = torch.tensor(windows.OFFSETS)
        torch.testing.assert_close(found[9], clips[1][:, 1 + offsets].T.flatten())

    def test_short_clips_lose_far_offsets_and_many_windows_are_thinned(self):
        assert windows.features(torch.zeros(3, 2, 9)).shape == (3, 2 * 5)
        assert windows.features(torch.zeros(3, 2, 1)).shape == (3, 2)
        assert windows.features(torch.zeros(9, 1, 100), most=50).shape == (50, 7)

    def test_clips_that_overlap_by_half(self):
        assert windows.cut([10, 3], 4, every=2) == [(0, 0), (0, 2), (0, 4), (0, 6)]


class TestPlaces:
    PLACES = Places(("a", "b", "a", "a"), (0, 0, 8, 20), frames=10)

    def test_clips_of_one_file_that_share_frames_overlap(self):
        overlaps = self.PLACES.overlaps(self.PLACES)
        assert overlaps.nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2], [3, 3]]
        other = Places(("c", "b"), (0, 9), frames=10)
        assert self.PLACES.overlaps(other).nonzero().tolist() == [[1, 1]]

    def test_ranks_follow_file_and_time_and_overlapping_clips_count_once(self):
        assert self.PLACES.ranks().tolist() == [0, 3, 1, 2]
        assert self.PLACES.distinct() == 3


class TestMel:
    def test_a_gain_is_a_shift_in_decibels_and_silence_the_floor(self, melody):
        loud = melody(1.0)[None]
        both = mel.log_mels([loud, 0.1 * loud, 0 * loud], 8000)
        heard = both[1] > -79
        assert heard.float().mean() > 0.3
        torch.testing.assert_close((both[0] - 20)[heard], both[1][heard], atol=1e-2, rtol=0)
        assert (both[2] == -80).all()

    @pytest.mark.parametrize(("rate", "n_fft"), [(8000, 512), (44100, 2048), (48000, 2048)])
    def test_windows_last_about_as_long_at_every_rate(self, rate, n_fft):
        config = mel.config_for(rate)
        assert (config.n_fft, config.hop) == (n_fft, n_fft // 2)


class TestEmbeddings:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """An installed package that announces embeddings, good and bad ones."""
        (tmp_path / "ears.py").write_text(
            "import numpy as np\n"
            "def energy(audio, rate):\n"
            "    assert audio.ndim == 1 and audio.dtype == np.float32\n"
            "    n = rate // 10\n"
            "    frames = audio[: len(audio) // n * n].reshape(-1, n)\n"
            "    return np.stack([frames.std(1), np.abs(frames).max(1)], 1)\n"
            "def flat(audio, rate):\n    return audio\n"
            "def broken(audio, rate):\n    raise RuntimeError('no ears')\n"
        )
        info = tmp_path / "ears-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ears\nVersion: 1.0\n")
        names = [f"{n} = ears:{n}" for n in ("energy", "flat", "broken", "missing")]
        (info / "entry_points.txt").write_text("\n".join(["[latentdiff.embeddings]", *names]))
        monkeypatch.syspath_prepend(str(tmp_path))
        yield
        sys.modules.pop("ears", None)

    def test_a_plug_in_is_found_by_name(self, package):
        clips = [np.ones((2, 850), np.float32), np.zeros((2, 850), np.float32)]
        found = embeddings.embed("energy", embeddings.load("energy"), clips, 1000)
        assert torch.cat(found).tolist() == [[0, 1]] * 8 + [[0, 0]] * 8
        assert embeddings.describe(found).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]

    @pytest.mark.parametrize(
        ("name", "message"),
        [("enrgy", "did you mean 'energy'"), ("missing", "cannot be loaded")],
    )
    def test_what_is_missing_is_reported(self, package, name, message):
        with pytest.raises(UserError) as error:
            embeddings.load(name)
        assert message in str(error.value)

    @pytest.mark.parametrize(("name", "message"), [("flat", "no features"), ("broken", "no ears")])
    def test_faults_of_a_plug_in_are_its_own(self, package, name, message):
        with pytest.raises(UserError) as error:
            embeddings.embed(name, embeddings.load(name), [np.zeros((1, 100), np.float32)], 1000)
        assert message in str(error.value)

    def test_none_installed(self):
        with pytest.raises(UserError) as error:
            embeddings.load("clap")
        assert "latentdiff.embeddings" in str(error.value)
