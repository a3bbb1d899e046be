"""Latent statistics and whitening, against direct computation and known Gaussians."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from latentdiff.config import build
from latentdiff.errors import ConfigError, UserError
from latentdiff.latents.settings import LatentConfig, Scaling
from latentdiff.latents.statistics import LatentStatistics, StatisticsAccumulator, fit
from latentdiff.latents.whitening import Whitening

D = 6


def correlated(frames: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """[D, frames]: two strong directions, one weak, three nearly dead."""
    rng = np.random.default_rng(seed)
    spread = np.array([3.0, 1.0, 0.3, 0.01, 0.01, 0.01])
    mixing = np.linalg.qr(np.random.default_rng(7).normal(size=(D, D)))[0]
    return mixing @ (spread[:, None] * rng.normal(size=(D, frames))) + offset


def noise_like(z: np.ndarray, std: float = 0.5) -> np.ndarray:
    return np.full_like(z, std)


def test_statistics_equal_the_direct_computation_far_from_zero():
    z = correlated(500, offset=1e4)
    statistics = fit([(z[:, :3], None), (z[:, 3:400], None), (z[:, 400:], None)])
    assert statistics.frames == 500
    np.testing.assert_allclose(statistics.mean, z.mean(1), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(z, bias=True), atol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, z.min(1))
    np.testing.assert_array_equal(statistics.maximum, z.max(1))
    assert statistics.posterior_variance is None


def test_merged_accumulators_equal_one():
    z, std = correlated(300), np.random.default_rng(1).uniform(0.1, 1, (D, 300))
    whole, left, right = (StatisticsAccumulator() for _ in range(3))
    whole.update(z, std)
    left.update(z[:, :120], std[:, :120])
    right.update(z[:, 120:], std[:, 120:])
    right.merge(StatisticsAccumulator())
    left.merge(right)
    a, b = whole.finish(), left.finish()
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-12)
    np.testing.assert_allclose(a.posterior_variance, b.posterior_variance, rtol=1e-12)
    np.testing.assert_allclose(a.posterior_variance, (std**2).mean(1), rtol=1e-12)


def test_merging_into_an_empty_accumulator_leaves_the_other_alone():
    first, second = StatisticsAccumulator(), StatisticsAccumulator()
    second.update(correlated(50))
    first.merge(second)
    first.update(correlated(50, seed=1))
    assert (first.finish().frames, second.finish().frames) == (100, 50)


def test_auto_keeps_directions_that_carry_a_tenth_of_a_bit():
    z = correlated(4000)
    third = float(np.sqrt(fit([(z, None)]).principal()[0][2]))
    # 0.5 log2(1 + s) = 0.1 at s = 0.1487.
    for ratio, kept in (0.155, 3), (0.142, 2):
        statistics = fit([(z, noise_like(z, third / np.sqrt(ratio)))])
        assert len(statistics.kept("auto")) == kept
        assert f"{kept} carry sound" in statistics.describe()
        assert "others are the encoder's own noise" in statistics.describe()


def test_auto_judges_a_direction_by_the_noise_along_it():
    rng = np.random.default_rng(0)
    z = np.array([3.0, 1.0])[:, None] * rng.normal(size=(2, 5000))
    # The larger of the two drowns in its own noise, the smaller does not.
    std = np.array([10.0, 0.1])[:, None] * np.ones_like(z)
    np.testing.assert_array_equal(fit([(z, std)]).kept("auto"), [1])


@pytest.mark.parametrize(("keep", "count"), [(1, 1), (4, 4), (0.5, 1), (0.95, 2), ("all", 6)])
def test_keep(keep, count):
    assert len(fit([(correlated(4000), None)]).kept(keep)) == count


def test_auto_without_posterior_falls_back_to_the_documented_share():
    statistics = fit([(correlated(4000), None)])
    np.testing.assert_array_equal(statistics.kept("auto"), statistics.kept(0.99))
    assert "not known" in statistics.describe()


def test_dead_dimensions_are_never_kept():
    z = correlated(1000)
    z[2:4] = 5.0
    statistics = fit([(z, None)])
    whitening = Whitening.from_statistics(statistics, "all")
    assert whitening.channels == 4
    assert torch.isfinite(whitening.whiten(torch.tensor(z, dtype=torch.float32))).all()
    with pytest.raises(UserError, match="only 4 vary"):
        statistics.kept(5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no latents to learn from"),
        ([(np.zeros((3, 1)), None)], "no latents to learn from"),
        ([(np.full((3, 9), np.nan), None)], "NaN"),
        ([(np.zeros((3, 9)), None), (np.zeros((4, 9)), None)], "different codecs"),
        ([(np.zeros(9), None)], "must be"),
    ],
)
def test_bad_latents_are_reported(files, message):
    with pytest.raises(UserError, match=message) as error:
        fit(files)
    assert message in str(error.value)


def test_latents_without_sound_are_reported():
    with pytest.raises(UserError, match="do not vary"):
        fit([(np.ones((3, 9)), None)]).kept("auto")
    z = 0.01 * correlated(100)
    with pytest.raises(UserError, match="no direction of the latents carries sound"):
        fit([(z, noise_like(z, 1.0))]).describe()


def test_statistics_survive_the_disk(tmp_path):
    z = correlated(100)
    for std in (None, noise_like(z)):
        statistics = fit([(z, std)])
        statistics.save(tmp_path / "stats.safetensors")
        loaded = LatentStatistics.load(tmp_path / "stats.safetensors")
        assert loaded.frames == 100
        np.testing.assert_array_equal(loaded.covariance, statistics.covariance)
        assert (loaded.posterior_variance is None) == (std is None)
    (tmp_path / "stats.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="cannot read the latent statistics"):
        LatentStatistics.load(tmp_path / "stats.safetensors")
    with pytest.raises(UserError, match="cannot read the latent statistics"):
        LatentStatistics.load(tmp_path / "none.safetensors")


def test_whitened_latents_are_white_and_come_back():
    z = correlated(4000, offset=-3.0)
    whitening = Whitening.from_statistics(fit([(z, None)]), 3)
    x = whitening.whiten(torch.tensor(z, dtype=torch.float32)[None])
    assert x.shape == (1, 3, 4000)
    torch.testing.assert_close(torch.cov(x[0], correction=0), torch.eye(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.mean(-1), torch.zeros(1, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(whitening.whiten(whitening.unwhiten(x)), x, atol=1e-5, rtol=1e-5)
    whole = Whitening.from_statistics(fit([(z, None)]), "all")
    raw = torch.tensor(z, dtype=torch.float32)
    torch.testing.assert_close(whole.unwhiten(whole.whiten(raw)), raw, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaling", get_args(Scaling))
@pytest.mark.parametrize("keep", [3, "all"])
def test_every_scaling_inverts_and_knows_its_variance(scaling, keep):
    z = correlated(4000, offset=-3.0)
    std = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])[:, None] * np.ones_like(z)
    whitening = Whitening.from_statistics(fit([(z, std)]), keep, scaling)
    x = whitening.whiten(torch.tensor(z, dtype=torch.float32))
    # In the raw latents' units: directions that hardly vary magnify their rounding.
    error = (whitening.whiten(whitening.unwhiten(x)) - x) * whitening.scale[:, None]
    assert error.abs().max() < 1e-5
    covariance = torch.diag(whitening.variance)
    torch.testing.assert_close(torch.cov(x, correction=0), covariance, atol=2e-4, rtol=1e-4)
    assert whitening.variance.mean().item() == pytest.approx(1.0, abs=1e-5)
    if keep == "all":
        raw = torch.tensor(z, dtype=torch.float32)
        torch.testing.assert_close(whitening.unwhiten(x), raw, atol=1e-5, rtol=1e-5)


def test_scalings_weigh_directions_as_documented():
    z = correlated(4000)
    std = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])[:, None] * np.ones_like(z)
    statistics = fit([(z, std)])
    variances, directions = statistics.principal()
    by_noise, by_all = (
        Whitening.from_statistics(statistics, 3, scaling) for scaling in ("posterior", "global")
    )
    noise = directions[:3] ** 2 @ std[:, 0] ** 2
    np.testing.assert_allclose(by_all.variance, variances[:3] / variances[:3].mean(), rtol=1e-5)
    assert by_all.scale.unique().numel() == 1
    np.testing.assert_allclose(
        by_noise.variance / by_noise.variance[0],
        variances[:3] / noise / (variances[0] / noise[0]),
        rtol=1e-5,
    )
    with pytest.raises(UserError, match="noise is not known"):
        Whitening.from_statistics(fit([(z, None)]), 3, "posterior")


def test_a_whitening_of_before_had_unit_variance():
    state = Whitening.from_statistics(fit([(correlated(100), None)]), 2).state_dict()
    del state["variance"]
    assert torch.equal(Whitening.from_state(state).variance, torch.ones(2))


def test_left_out_directions_are_filled_as_asked():
    z = correlated(4000, offset=2.0)
    statistics = fit([(z, None)])
    whitening = Whitening.from_statistics(statistics, 2)
    x = whitening.whiten(torch.tensor(z, dtype=torch.float32))
    dead = torch.tensor(statistics.principal()[1][2:], dtype=torch.float32)
    mean = torch.tensor(statistics.mean, dtype=torch.float32)[:, None]
    by_mean, by_noise = (
        whitening.unwhiten(x, fill=fill, generator=torch.Generator().manual_seed(0))
        for fill in ("mean", "noise")
    )
    torch.testing.assert_close(dead @ (by_mean - mean), torch.zeros(4, 4000), atol=1e-5, rtol=0)
    filled = dead @ (by_noise - mean)
    torch.testing.assert_close(torch.cov(filled), torch.eye(4), atol=0.1, rtol=0)
    torch.testing.assert_close(whitening.whiten(by_noise), x, atol=1e-5, rtol=1e-5)
    again = whitening.unwhiten(x, "noise", torch.Generator().manual_seed(0))
    assert torch.equal(by_noise, again)


def test_whitening_is_saved_whole():
    statistics = fit([(correlated(100), None)])
    whitening = Whitening.from_statistics(statistics, 2)
    restored = Whitening.from_state(whitening.state_dict())
    for name, tensor in whitening.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor)
    assert not list(whitening.parameters())


@pytest.mark.parametrize("keep", [0, -1, 1.0, 1.5, True, "some", None, float("nan")])
def test_impossible_keep_is_one_clear_error(keep):
    with pytest.raises(ConfigError) as error:
        build(LatentConfig, {"keep": keep})
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("keep", ["auto", "all", 1, 128, 0.99])
def test_keep_stays_what_it_was(keep):
    config = build(LatentConfig, {"keep": keep})
    again = build(LatentConfig, config.model_dump(mode="json"))
    assert type(again.keep) is type(keep)
    assert again.keep == keep
