"""How large the signals inside a network are, block by block, on given input.

Magnitudes are root mean squares: a norm grows with the number of elements, so that norms of
tensors of different shapes cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentdiff.networks.layers import Probe

SATURATED = 4.0
"""|input| of a sigmoid from which it is within 2 % of 0 or 1: its gradient is nearly zero."""

Signals = Mapping[nn.Module, tuple[Tensor, Tensor]]
"""Module -> the first input and the first output of its last call."""


@dataclass(frozen=True)
class BlockActivity:
    """Magnitudes in one block."""

    name: str
    stream_in: float
    """RMS of the block's input."""
    stream_out: float
    """RMS of the block's output."""
    signal: float
    """RMS of the signal that the condition is added to."""
    condition: float | None
    """RMS of the condition there; None if the network has none."""
    saturated: float | None
    """Share 0..1 of the block's gates that are saturated; None if it has no gates."""


@dataclass(frozen=True)
class Activations:
    """Magnitudes in a network."""

    blocks: list[BlockActivity]
    """Empty for a network whose blocks declare no probe."""
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
    blocks = {name: m for name, m in network.named_modules() if probe_of(m) is not None}
    children = [child for block in blocks.values() for child in _children(block) if child]
    with _recorded([network, *blocks.values(), *children]) as signals:
        call()
    called = {name: block for name, block in blocks.items() if block in signals}
    activities = [_activity(name, block, signals) for name, block in called.items()]
    return Activations(activities, rms(signals[network][1]))


def rms(x: Tensor) -> float:
    """Root mean square over all elements of `x`, of any shape."""
    return float(x.detach().double().square().mean().sqrt())


def probe_of(module: nn.Module) -> Probe | None:
    """The `probe` that the module's class declares, or None."""
    probe = getattr(type(module), "probe", None)
    return probe if isinstance(probe, Probe) else None


def _children(block: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """The modules that the block's probe names: of the signal, and of the condition."""
    probe = probe_of(block)
    assert probe is not None
    return getattr(block, probe.signal), getattr(block, probe.condition)


def _activity(name: str, block: nn.Module, signals: Signals) -> BlockActivity:
    probe = probe_of(block)
    assert probe is not None
    of_signal, of_condition = _children(block)
    stream_in, stream_out = signals[block]
    signal = signals[of_signal][1]
    condition = None if of_condition is None else signals[of_condition][1]
    return BlockActivity(
        name or type(block).__name__.lower(),
        rms(stream_in),
        rms(stream_out),
        rms(signal),
        None if condition is None else rms(condition),
        _saturated(signal, condition) if probe.gated else None,
    )


def _saturated(signal: Tensor, condition: Tensor | None) -> float:
    """Share of shut or wide open gates, which are the second half of the last axis."""
    gates = signal if condition is None else signal + condition
    return float((gates.chunk(2, dim=-1)[1].abs() > SATURATED).double().mean())


@contextmanager
def _recorded(modules: list[nn.Module]) -> Iterator[Signals]:
    """Record the modules' inputs and outputs while the context is open."""
    signals: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(
        module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]
    ) -> None:
        signals[module] = (inputs[0], output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        yield signals
    finally:
        for hook in hooks:
            hook.remove()
