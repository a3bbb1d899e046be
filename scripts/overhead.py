"""Measures the trainer's overhead over a step of the bare network on this machine.

    python scripts/overhead.py --steps 200

Between the trainer's steps, with the default settings, runs a step of what one would write by hand:
the same network, noisy latents and targets of the same shapes prepared in advance, forward, mean
square, backward, AdamW. The trainer's step also draws windows, levels and noise, clips the
gradient, measures the baseline, updates the averaged weights and writes metrics; validation,
checkpoints and demos are left out. They alternate step by step, so that other load on the machine
affects both alike.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from loops import FRAMES, Parts, fit_metrics, make_parts, slow_noise
from measuring import cpu_name, median_ratio

from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.specs import Condition
from latentdiff.training.data import generator_for
from latentdiff.training.task import Task

READY = 8
"""Batches that lie ready for the plain loop."""
WARMTH = 10
"""Steps that do not count."""


@dataclass
class Turns:
    """Seconds of the trainer's steps, and of those that something else takes between them."""

    between: Callable[[], float]
    clock: Callable[[], float]
    trainer: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    left: float | None = None

    def take(self) -> None:
        if self.left is not None:
            self.trainer.append(self.clock() - self.left)
            self.plain.append(self.between())
        self.left = self.clock()


@dataclass(frozen=True)
class Interrupted(Task):
    """A task that runs other code whenever levels are drawn, once a step."""

    turns: Turns | None = None

    def draw(self, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if self.turns is not None:
            self.turns.take()
        return super().draw(batch, generator)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    latents = slow_noise(np.random.default_rng(0), options.channels, FRAMES)
    training = {"steps": options.steps, "log_every": 40, "demo_samples": 0}
    values = {"network": {"name": options.network}, "training": training}
    parts, device = make_parts(values, latents), options.device
    turns = Turns(plain_step(parts, device), lambda: now(device))
    task = Interrupted(
        parts.task.objective, parts.task.schedule, parts.task.noise_level_sampler, turns=turns
    )
    fit_metrics(replace(parts, task=task), device)
    trainer, plain = turns.trainer[WARMTH:], turns.plain[WARMTH:]
    median, whole = median_ratio(trainer, plain), sum(trainer) / sum(plain)
    print(
        f"{options.network}, batch {parts.project.training.batch}, window "
        f"{parts.project.training.window}, {options.device}, {options.threads} threads of "
        f"{cpu_name()}: a step of the trainer takes {1e3 * statistics.median(trainer):.1f} ms, of "
        f"the plain loop {1e3 * statistics.median(plain):.1f} ms (medians of {len(trainer)}); "
        f"median of the ratios {100 * (median - 1):+.1f} %, of all time {100 * (whole - 1):+.1f} %"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--channels", type=int, default=12, help="latent directions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="diffwave")
    return parser.parse_args()


def plain_step(parts: Parts, device: str) -> Callable[[], float]:
    """A step of the plain loop, on a copy of the network; it returns its seconds."""
    network: Any = copy.deepcopy(parts.denoiser.network).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    windows = parts.windows.draw(READY * parts.project.training.batch, generator_for(0))
    ready = [batch(parts, z, device) for z in windows.latents.chunk(READY)]

    def step() -> float:
        z_t, logsnr, target = ready[0]
        ready.append(ready.pop(0))
        begun = now(device)
        optimizer.zero_grad(set_to_none=True)
        output = network(z_t, logsnr, Condition())
        torch.nn.functional.mse_loss(output, target).backward()
        optimizer.step()
        return now(device) - begun

    return step


def batch(parts: Parts, z_0: torch.Tensor, device: str) -> tuple[torch.Tensor, ...]:
    """Noisy latents, their levels, and the velocity."""
    logsnr, _ = parts.task.draw(len(z_0), generator_for("levels"))
    noise = torch.randn(z_0.shape, generator=generator_for("noise"))
    alpha, sigma = alpha_sigma(logsnr[:, None, None])
    tensors = (alpha * z_0 + sigma * noise, logsnr, alpha * noise - sigma * z_0)
    return tuple(x.to(device) for x in tensors)


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
