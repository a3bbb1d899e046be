"""How large the signals inside a network are, block by block, on given input.

Magnitudes are root mean squares: a norm grows with the number of elements, so that norms of
tensors of different shapes cannot be compared.

Shapes: B windows, C latent channels, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentdiff.networks import diffwave, tiny, transformer, unet

JOINED: dict[type[nn.Module], tuple[str, str]] = {
    diffwave.ResidualBlock: ("conv", "condition"),
    unet.UNetBlock: ("norm_2", "condition"),
    transformer.TransformerBlock: ("first", "condition"),
    tiny.Tiny: ("first", "encoder"),
}
"""Of a block: whose output the condition joins, and whose output the condition is there."""
SATURATED = 4.0
"""|input| of a sigmoid from which it is within 2 % of 0 or 1: its gradient is nearly gone."""


@dataclass(frozen=True)
class BlockActivity:
    """Magnitudes in one block."""

    name: str
    stream_in: float
    """Of the stream that enters."""
    stream_out: float
    """Of the stream that leaves."""
    signal: float
    """Of what the condition joins."""
    condition: float | None
    """Of the condition there; None = there is none."""
    saturated: float | None
    """Share of its gates that are wide open or shut; None = it has no gates."""


@dataclass(frozen=True)
class Activations:
    """Magnitudes in a network."""

    blocks: list[BlockActivity]
    """Empty where its kind of block is not known."""
    output: float

    @property
    def growth(self) -> float:
        """Factor by which the stream grows from the first block to the last."""
        if not self.blocks:
            return 1.0
        return self.blocks[-1].stream_out / max(self.blocks[0].stream_in, 1e-12)


@torch.no_grad()
def measure(network: nn.Module, call: Callable[[], object]) -> Activations:
    """Magnitudes while `call` runs the network once."""
    known = [(n, m) for n, m in network.named_modules() if type(m) in JOINED]
    children = [child for _, block in known for child in _children(block)]
    with _heard([network, *(block for _, block in known), *children]) as heard:
        call()
    blocks = [_block(name, module, heard) for name, module in known if module in heard]
    return Activations(blocks, rms(heard[network][1]))


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.detach().double().square().mean().sqrt())


def _children(block: nn.Module) -> list[nn.Module]:
    found = (getattr(block, name) for name in JOINED[type(block)])
    return [child for child in found if child is not None]


def _block(
    name: str, block: nn.Module, heard: dict[nn.Module, tuple[Tensor, Tensor]]
) -> BlockActivity:
    joined, told = (getattr(block, child) for child in JOINED[type(block)])
    stream_in, stream_out = heard[block]
    signal = heard[joined][1]
    condition = heard[told][1] if told is not None else None
    return BlockActivity(
        name or type(block).__name__.lower(),
        rms(stream_in),
        rms(stream_out),
        rms(signal),
        None if condition is None else rms(condition),
        _saturated(signal, condition) if isinstance(block, diffwave.ResidualBlock) else None,
    )


def _saturated(signal: Tensor, condition: Tensor | None) -> float:
    gates = signal if condition is None else signal + condition
    return float((gates.chunk(2, dim=-1)[1].abs() > SATURATED).double().mean())


@contextmanager
def _heard(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """First input and first output of each module, of its last call, for as long as it is open."""
    heard: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def listen(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        heard[module] = (inputs[0], output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(listen) for module in modules]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
