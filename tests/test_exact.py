"""Latents of which all is known: held to textbook formulas and to numerical integration."""

from __future__ import annotations

import math

import pytest
import torch

from latentdiff.diffusion import exact, noise
from latentdiff.diffusion.denoiser import Denoiser
from latentdiff.diffusion.exact import Exact, ExactNetwork
from latentdiff.specs import Condition

BOTH = pytest.mark.parametrize("latents", [exact.gaussian(), exact.mixture()], ids=["one", "two"])


def at(logsnr, count):
    return torch.full((count,), logsnr, dtype=torch.float64)


def legs(logsnr):
    """alpha and sigma."""
    return noise.alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))


@pytest.fixture
def heaps():
    """One value, in two heaps."""
    one = torch.ones(1, 1).double()
    weights = torch.tensor([0.3, 0.7]).double()
    return Exact(
        (1, 1),
        one,
        weights,
        torch.tensor([[-1.0, 2.0]]).double(),
        torch.tensor([[0.2, 0.5]]).double(),
    )


def test_the_gaussian_denoiser_is_the_wiener_filter():
    latents = exact.gaussian()
    z = latents.noisy(0.7).draw(50)
    alpha, sigma = legs(0.7)
    gain = torch.linalg.solve(
        alpha**2 * latents.covariance + sigma**2 * torch.eye(8), alpha * latents.covariance
    )
    expected = latents.mean + (z.flatten(1) - alpha * latents.mean) @ gain
    torch.testing.assert_close(latents(z, at(0.7, 50)).flatten(1), expected)


def test_the_gaussian_flow_is_linear():
    latents = exact.gaussian()
    first, last = -5.0, 4.0
    z = 1.5 * latents.noisy(first).draw(50)
    (a, s), (b, r) = legs(first), legs(last)
    variance = latents.variances[:, 0]
    scale = ((b**2 * variance + r**2) / (a**2 * variance + s**2)).sqrt()
    centred = (z.flatten(1) - a * latents.mean) @ latents.basis
    expected = b * latents.mean + (centred * scale) @ latents.basis.T
    torch.testing.assert_close(latents.flow(z, first, last).flatten(1), expected)


@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 3.0])
def test_the_denoiser_of_a_mixture_is_bayes(heaps, logsnr):
    x = torch.linspace(-8, 10, 40001).double()
    alpha, sigma = legs(logsnr)
    density = lambda y, m, v: torch.exp(-0.5 * (y - m) ** 2 / v) / v**0.5  # noqa: E731
    prior = 0.3 * density(x, -1, 0.2) + 0.7 * density(x, 2, 0.5)
    for z in (-3.0, 0.1, 1.0, 4.0):
        posterior = prior * density(z, alpha * x, sigma**2)
        expected = (posterior * x).sum() / posterior.sum()
        found = heaps(torch.full((1, 1, 1), z).double(), at(logsnr, 1))
        assert found.item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_flow_of_a_mixture_obeys_its_equation(heaps):
    # In x = z / alpha and s = sigma / alpha: dx/ds = (x - z_0) / s.
    z, step = torch.linspace(-2, 2, 9).double().view(-1, 1, 1), 1e-4
    for level in (-6.0, 0.0, 2.0):
        x, s = [], []
        for to in (level - step, level, level + step):
            alpha, sigma = legs(to)
            x.append(heaps.flow(z, level, to) / alpha)
            s.append(sigma / alpha)
        slope = (x[2] - x[0]) / (s[2] - s[0])
        torch.testing.assert_close(x[1] * legs(level)[0], z)
        expected = (x[1] - heaps(z, at(level, 9))) / s[1]
        torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_the_flow_there_and_back_is_none_far_out_too(latents):
    z = 8 * latents.noisy(-3.0).draw(40)
    there = latents.flow(z, -3.0, 6.0)
    torch.testing.assert_close(latents.flow(there, 6.0, -3.0), z, rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("logsnr", [-8.0, 0.0, 8.0])
def test_draws_have_the_very_moments(latents, logsnr):
    level = latents.noisy(logsnr)
    z = level.draw(100).flatten(1)
    alpha, sigma = legs(logsnr)
    torch.testing.assert_close(z.mean(0), alpha * latents.mean)
    covariance = alpha**2 * latents.covariance + sigma**2 * torch.eye(8)
    torch.testing.assert_close(torch.cov(z.T, correction=0), covariance)


def test_a_mixture_has_two_heaps():
    latents = exact.mixture()
    share = (latents.draw(4000).flatten(1) @ latents.basis > latents.means.mean(dim=1)).double()
    torch.testing.assert_close(share.mean(0), torch.full((8,), 0.3).double(), atol=0.03, rtol=0)
    assert float(latents.covariance.trace()) == pytest.approx(8)


@BOTH
@pytest.mark.parametrize("output", ["eps", "v", "x0", "flow"])
def test_denoisers_convert_what_networks_put_out(latents, output):
    z = latents.noisy(-1.0).draw(40)
    denoise = Denoiser(ExactNetwork(latents, output), output, precondition=False)
    found = denoise(z.float(), at(-1.0, 40).float(), Condition())
    torch.testing.assert_close(found.double(), latents(z, at(-1.0, 40)), rtol=1e-5, atol=1e-5)


def test_a_preconditioned_denoiser_adds_the_rest():
    latents, variance = exact.mixture(), torch.tensor([0.4, 2.0])
    z = latents.noisy(1.0).draw(40)
    denoise = Denoiser(ExactNetwork(latents, "v", variance), "v", variance=variance)
    found = denoise(z.float(), at(1.0, 40).float(), Condition())
    torch.testing.assert_close(found.double(), latents(z, at(1.0, 40)), rtol=1e-5, atol=1e-5)


def test_rounding_of_eps_grows_with_the_gain():
    latents, logsnr = exact.gaussian(), -12.0
    z = latents.noisy(logsnr).draw(200)
    off = {}
    for output in ("eps", "v"):
        denoise = Denoiser(ExactNetwork(latents, output), output, precondition=False)
        found = denoise(z.float(), at(logsnr, 200).float(), Condition()).double()
        off[output] = (found - latents(z, at(logsnr, 200))).square().mean().sqrt().item()
    assert 0.01 < off["eps"] / (2**-24 * math.exp(6)) < 3
    assert off["v"] < off["eps"] / 100
