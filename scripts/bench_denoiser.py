"""A call of the denoiser beside its bare layers, on this machine.

    python scripts/bench_denoiser.py --network diffwave --batch 16 --frames 128

What every layer (convolution, product, norm, activation) of the network is given in one call is
recorded; then a plain loop calls these layers on these inputs, one after the other, taking turns
with whole calls of the denoiser. What the call takes longer is all that stands between the layers:
gates, skips, noise levels, conditions, preconditioning, Python.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import cpu_name, in_turns, median_ratio
from torch import nn

from latentdiff.config import build
from latentdiff.model.project import Project
from latentdiff.specs import Condition


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    project = build(Project, {"network": {"name": options.network}})
    denoiser = project.recipe.make_denoiser(channels=options.channels).eval()
    z = torch.randn(options.batch, options.channels, options.frames)
    logsnr = torch.linspace(-8, 6, options.batch)

    def call() -> torch.Tensor:
        return denoiser(z, logsnr, Condition())

    with torch.no_grad():
        bare = bare_layers(denoiser, call)
        ours, plain = in_turns([call, bare], options.repeats)
    print(
        f"{options.network}, batch {options.batch}, {options.frames} frames, {options.threads} "
        f"threads of {cpu_name()}: a call takes {1e3 * statistics.median(ours):.2f} ms, its bare "
        f"layers {1e3 * statistics.median(plain):.2f} ms; median of the ratios of "
        f"{options.repeats}: {median_ratio(ours, plain):.2f}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="diffwave")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--channels", type=int, default=12, help="latent directions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=50)
    return parser.parse_args()


def bare_layers(network: nn.Module, call: Callable[[], Any]) -> Callable[[], None]:
    """A loop over the layers that `call` goes through, each on what it was given there."""
    calls: list[tuple[nn.Module, tuple[Any, ...]]] = []
    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [
        leaf.register_forward_pre_hook(lambda layer, given: calls.append((layer, given)))
        for leaf in leaves
    ]
    call()
    for hook in hooks:
        hook.remove()

    def loop() -> None:
        for layer, given in calls:
            layer(*given)

    return loop


if __name__ == "__main__":
    main()
