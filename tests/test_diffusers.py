"""Samplers beside those of diffusers: same betas, same model outputs, same noise, same x_t.

diffusers walks whole steps n of a chain of N betas, x_t = sqrt(abar_n) x_0 + sqrt(1 - abar_n) eps;
the same levels here are log-SNR = ln(abar_n / (1 - abar_n)).
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from latentdiff.diffusion import noise
from latentdiff.diffusion.methods import METHODS, NoiseLevel, SamplerOptions, SamplerState
from latentdiff.specs import Condition

diffusers = pytest.importorskip("diffusers")

N, STEPS, SHAPE = 1000, 20, (2, 3, 8)
BETAS = {"num_train_timesteps": N, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
LOGSNR = noise.chain_logsnr(noise.linear_betas(1e-4, 0.02, N))
CLOSE = {"atol": 5e-4, "rtol": 5e-4}
"""diffusers keeps its betas in float32; its abar differs from ours in the sixth digit."""


def eps_of(x, n):
    """Some model output, far from linear, that depends on level and latents."""
    return torch.sin(2 * x + n / N) + 0.3 * x


def estimate(x, logsnr, condition):
    """The z_0 that `eps_of` stands for, at the step n that has this log-SNR."""
    n = int((LOGSNR - logsnr[0].double()).abs().argmin())
    level = NoiseLevel.at(LOGSNR[n].item())
    return (x - level.sigma * eps_of(x, n)) / level.alpha


def noises():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=g, dtype=torch.float64) for _ in range(STEPS + 1)]


def ours(method, timesteps, **options):
    """x after each step from one of these timesteps to the next."""
    start, *rest = noises()
    fresh = iter(rest)
    state = SamplerState(estimate, Condition(), lambda: next(fresh), SamplerOptions(**options))
    points = [NoiseLevel.at(LOGSNR[n].item()) for n in timesteps]
    x, trajectory = start, []
    for here, there in pairwise(points):
        x = METHODS[method](state, x, here, there)
        trajectory.append(x)
    return trajectory


def theirs(scheduler, step):
    """The same of diffusers, but for its last step, whose end is no step of the chain."""
    scheduler.set_timesteps(STEPS)
    x, *fresh = noises()
    trajectory = []
    for n, extra in zip(scheduler.timesteps[:-1].tolist(), fresh, strict=False):
        x = step(n, x, extra)
        trajectory.append(x)
    return trajectory, scheduler.timesteps.tolist()


def assert_same(a, b):
    assert len(a) == len(b) == STEPS - 1
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta):
    scheduler = diffusers.DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading"
    )

    def step(n, x, extra):
        return scheduler.step(eps_of(x, n), n, x, eta=eta, variance_noise=extra).prev_sample

    trajectory, timesteps = theirs(scheduler, step)
    assert_same(ours("ddim", timesteps, eta=eta), trajectory)


@pytest.mark.parametrize(
    ("variance", "name"), [("posterior", "fixed_small"), ("beta", "fixed_large")]
)
def test_ddpm(monkeypatch, variance, name):
    from diffusers.schedulers import scheduling_ddpm

    scheduler = diffusers.DDPMScheduler(
        **BETAS, clip_sample=False, variance_type=name, timestep_spacing="leading"
    )

    def step(n, x, extra):
        # Its fresh noise cannot be handed over.
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: extra)
        return scheduler.step(eps_of(x, n), n, x).prev_sample

    trajectory, timesteps = theirs(scheduler, step)
    assert_same(ours("ddpm", timesteps, variance=variance), trajectory)


def test_dpm_solver_multistep():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="leading",
        # Else it makes its last step one of first order.
        lower_order_final=False,
        euler_at_final=False,
    )

    def step(n, x, extra):
        return scheduler.step(eps_of(x, n), n, x).prev_sample

    trajectory, timesteps = theirs(scheduler, step)
    # Ours differs on purpose where a step is longer than the one before, near the clean end.
    lengths = LOGSNR[timesteps].diff().tolist()
    same = next(n for n, (before, after) in enumerate(pairwise(lengths), 1) if after > before)
    assert same > 10
    mine = ours("dpmpp-2m", timesteps)
    for x, y in zip(mine[:same], trajectory[:same], strict=True):
        torch.testing.assert_close(x, y, **CLOSE)
    assert (mine[-1] - trajectory[-1]).abs().max() > 10 * CLOSE["atol"]


def test_another_method_is_distinguished():
    """What the comparisons above distinguish: methods that differ only in second order."""
    timesteps = list(range(951, 0, -50))
    first, second = ours("ddim", timesteps), ours("dpmpp-2m", timesteps)
    assert (first[-1] - second[-1]).abs().max() > 100 * CLOSE["atol"]
