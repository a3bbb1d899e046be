"""The measures of an evaluation, held to closed forms and to sets whose truth is known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from latentdiff.errors import UserError
from latentdiff.evaluation import compare, embeddings, mel, windows
from latentdiff.evaluation.frechet import Gaussian, ScoreScale, distance


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

    def test_score_runs_from_ceiling_to_floor_and_no_farther(self):
        scale = ScoreScale(floor=2.0, ceiling=10.0)
        assert [scale.score(d) for d in (1.0, 2.0, 4.0, 10.0, 99.0)] == [1, 1, 0.75, 0, 0]
        assert math.isnan(ScoreScale(floor=3.0, ceiling=3.0).score(1.0))


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

    def test_sets_of_other_lengths_are_looked_at_in_the_same_way(self):
        assert windows.features(torch.zeros(2, 3, 90), 9).shape == (2 * 82, 3 * 5)
        sets = {compare.REFERENCE: 1, compare.OTHER: 2, compare.WHITE: 3, compare.SAMPLES: 4}
        clips = {name: resonance(20, 20 * seed, seed) for name, seed in sets.items()}
        assert set(compare.compare_clips(clips).sets) == set(sets) - {compare.REFERENCE}

    def test_noise_and_shuffled_frames_keep_what_they_should(self, generator):
        clips = 3 * resonance(40, 200, 0) + torch.tensor([1.0, -2.0])[:, None]
        noise, mixed = (f(clips, generator) for f in (windows.white_noise, windows.shuffled))
        for x in (noise, mixed):
            assert x.shape == clips.shape
            torch.testing.assert_close(x.mean((0, 2)), clips.mean((0, 2)), atol=0.1, rtol=0)
            torch.testing.assert_close(x.std((0, 2)), clips.std((0, 2)), atol=0.1, rtol=0)
            flat = (x - x.mean((0, 2), keepdim=True))[..., :-1] * x[..., 1:]
            assert flat.mean().abs() < 0.2  # the resonance has 8.6 there
        torch.testing.assert_close(
            mixed.transpose(0, 1).flatten(1).sort(1).values,
            clips.transpose(0, 1).flatten(1).sort(1).values,
        )


class TestScores:
    @pytest.fixture(scope="class")
    def found(self):
        generator = torch.Generator().manual_seed(0)
        real = resonance(60, 150, 2)
        sets = {
            compare.REFERENCE: resonance(60, 150, 1),
            compare.OTHER: real,
            compare.HELD_OUT: resonance(20, 150, 3),
            compare.SAMPLES: resonance(60, 150, 4),
            compare.WEAK: windows.weakened(real),
            compare.SHUFFLED: windows.shuffled(real, generator),
            compare.WHITE: windows.white_noise(real, generator),
            "weaker": windows.weakened(real, 0.5),
            "more noise": windows.white_noise(real, generator),
        }
        return compare.compare({name: windows.features(x) for name, x in sets.items()})

    def test_sound_of_the_same_kind_scores_one_and_noise_zero(self, found):
        assert found.score(compare.OTHER) == 1
        assert found.score(compare.SAMPLES) > 0.95
        assert found.score(compare.WHITE) == 0
        assert found.score("more noise") < 0.05

    def test_frames_in_disorder_score_far_below(self, found):
        assert found.score(compare.SHUFFLED) < 0.05

    def test_samples_that_are_too_tame_are_seen(self, found):
        assert 0.5 < found.score(compare.WEAK) < 0.9
        assert found.score("weaker") < found.score(compare.WEAK) - 0.1

    def test_distances_to_held_out_stand_beside(self, found):
        without = [name for name, row in found.sets.items() if row.distance_to_held_out is None]
        assert without == [compare.HELD_OUT]

    def test_held_out_sound_of_another_kind_does_not_excuse_samples(self, generator):
        real = resonance(20, 150, 1)
        odd = 5 + windows.white_noise(real, generator)
        found = compare.compare(
            {
                compare.REFERENCE: windows.features(real),
                compare.OTHER: windows.features(resonance(20, 150, 2)),
                compare.HELD_OUT: windows.features(odd),
                compare.WHITE: windows.features(windows.white_noise(real, generator)),
            }
        )
        assert found.floor == found.sets[compare.OTHER].distance
        assert found.score(compare.HELD_OUT) == 0 and found.score(compare.OTHER) == 1

    def test_where_noise_is_as_near_as_sound_there_is_no_score(self, generator):
        noise = [windows.features(torch.randn(4, 2, 50, generator=generator)) for _ in range(3)]
        names = (compare.REFERENCE, compare.OTHER, compare.WHITE)
        found = compare.compare(dict(zip(names, [noise[0], noise[1], noise[0]], strict=True)))
        assert not found.usable and found.score(compare.WHITE) is None

    def test_the_error_of_the_score_is_what_other_draws_show(self):
        def clips(seed):
            strength = np.random.default_rng(seed).choice([0.4, 1.4], (32, 1, 1))
            return resonance(32, 60, seed) * torch.from_numpy(strength).float()

        real = {compare.REFERENCE: clips(1), compare.OTHER: clips(2)}
        noise = windows.white_noise(real[compare.OTHER], torch.Generator().manual_seed(0))
        found = []
        for seed in range(10, 30):
            sets = {**real, compare.WHITE: noise, compare.SAMPLES: 0.7 * clips(seed)}
            found.append(compare.compare_clips(sets))
        drawn = np.std([comparison.score(compare.SAMPLES) for comparison in found])
        reported = np.mean([comparison.score_error for comparison in found])
        assert 0.6 < reported / drawn < 1.7


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
        assert found.tolist() == [[0, 1]] * 8 + [[0, 0]] * 8

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
