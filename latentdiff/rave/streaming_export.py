"""Models exported for streaming: the same weights, in layers that remember the previous call.

`rave export --streaming` replaces the zero padding of each layer by the end of the previous call,
and delays branches until the slowest has caught up. What a layer computes is unchanged. So the
modules inside the TorchScript file are built again as those of a run: RAVE's own classes, with
padding in place of memory and without delays. They need no state, take any batch, and give what the
run itself gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from latentdiff.rave.net import unsupported

MEMORY = (".pad", ".cache")
"""Endings of the names of buffers that hold the end of the previous call; no part of the model."""

_READ = {
    "AdaptiveInstanceNormalization": (),
    "CachedPQMF": ("n_band",),
    "DilatedUnit": (),
    "Encoder": (),
    "EncoderV2": (),
    "Generator": ("use_noise", "loud_stride"),
    "GeneratorV2": ("amplitude_modulation",),
    "NoiseGenerator": ("data_size",),
    "NoiseGeneratorV2": ("data_size", "n_channels"),
    "Residual": (),
    "ResidualBlock": (),
    "ResidualLayer": (),
    "ResidualStack": (),
    "SampleNorm": (),
    "Snake": (),
    "SphericalEncoder": (),
    "UpsampleLayer": (),
    "VariationalEncoder": (),
    "WasserteinEncoder": ("noise_augmentation",),
}
"""Class of RAVE -> what its forward pass reads beside its parts, parameters and buffers."""


def is_streaming(script: ScriptModule) -> bool:
    """Whether layers of a scripted RAVE remember the previous call."""
    return any(class_name(part).startswith("CachedConv") for part in script.encoder.modules())


class StatelessExport:
    """The codec's parts of a streaming export as plain modules.

    Raises UserError where a part is of a class that is not known here.
    """

    def __init__(self, script: ScriptModule) -> None:
        causal = _is_causal(script.encoder)
        self.encoder, self.decoder, self.pqmf = (
            _rebuild(part, causal) for part in (script.encoder, script.decoder, script.pqmf)
        )
        self.input_mode, self.output_mode = str(script.input_mode), str(script.output_mode)

    def to(self, device: torch.device) -> StatelessExport:
        """Move all parts, ready to run."""
        for part in (self.encoder, self.decoder, self.pqmf):
            part.eval().requires_grad_(False).to(device)
        return self


def _rebuild(script: Any, causal: bool) -> Any:
    """A scripted module as a Python module; `causal`: convolutions look at the past only."""
    kind = class_name(script)
    if kind in _LAYERS:
        return _LAYERS[kind](script)
    if kind == "CachedConv1d":
        return _convolution(script, causal)
    if kind == "AlignBranches":
        from cached_conv import convs

        branches = [_rebuild(branch, causal) for branch in script.branches.children()]
        return convs.Branches(*branches, delays=[0] * len(branches))
    # NoiseGeneratorV2 never looks ahead, causal model or not.
    parts = {
        name: _rebuild(part, causal or kind == "NoiseGeneratorV2")
        for name, part in script.named_children()
    }
    if kind.endswith("Sequential"):
        return nn.Sequential(*parts.values())
    return _of_class(kind, script, parts)


def _of_class(kind: str, script: Any, parts: dict[str, nn.Module]) -> nn.Module:
    """A module of one of RAVE's own classes, made of parts instead of settings."""
    from rave import blocks, pqmf

    found = getattr(pqmf if kind == "CachedPQMF" else blocks, kind, None)
    if kind not in _READ or found is None:
        raise unsupported(
            f"it was exported for streaming, and a part of it is a {kind}, whose streaming form is "
            "not known here",
            do_this="export the run again with `rave export` without --streaming, or use the run "
            "itself.",
        )
    # The constructors want the settings of the run, which an export does not hold.
    module: nn.Module = found.__new__(found)
    nn.Module.__init__(module)
    for name, part in parts.items():
        module.add_module(name, part)
    for name, value in _own(script.named_parameters()):
        module.register_parameter(name, nn.Parameter(value.detach()))
    for name, value in _own(script.named_buffers()):
        module.register_buffer(name, value)
    for name in _READ[kind]:
        setattr(module, name, getattr(script, name))
    if kind == "GeneratorV2":
        for name in ("noise_module", "waveform_module"):
            if name not in parts:
                setattr(module, name, None)
    if kind == "AdaptiveInstanceNormalization":
        # Voices learnt on stage are no part of the codec.
        module.reset_x()  # type: ignore[operator]
        module.reset_y()  # type: ignore[operator]
    return module


def _convolution(script: Any, causal: bool) -> nn.Module:
    from cached_conv import convs

    width = int(script.cache.padding)
    right = 0 if causal else (width + 1) // 2
    weight = script.weight
    layer: nn.Module = convs.Conv1d(
        weight.shape[1] * script.groups,
        weight.shape[0],
        weight.shape[2],
        stride=tuple(script.stride),
        dilation=tuple(script.dilation),
        groups=script.groups,
        padding=(width - right, right),
        bias=script.bias is not None,
    )
    return _filled(layer, script)


def _transposed(script: Any) -> nn.Module:
    from cached_conv import convs

    weight = script.weight
    layer: nn.Module = convs.ConvTranspose1d(
        weight.shape[0],
        weight.shape[1] * script.groups,
        weight.shape[2],
        stride=tuple(script.stride),
        padding=tuple(script.padding),
        output_padding=tuple(script.output_padding),
        groups=script.groups,
        dilation=tuple(script.dilation),
        bias=script.bias is not None,
    )
    return _filled(layer, script)


def _batch_norm(script: Any) -> nn.Module:
    return _filled(nn.BatchNorm1d(len(script.running_mean), eps=script.eps), script)


_LAYERS: dict[str, Callable[[Any], nn.Module]] = {
    "BatchNorm1d": _batch_norm,
    "CachedConvTranspose1d": _transposed,
    "Identity": lambda script: nn.Identity(),
    "LeakyReLU": lambda script: nn.LeakyReLU(script.negative_slope),
}
"""Layers that are built by their own constructors."""


def _filled(layer: nn.Module, script: Any) -> nn.Module:
    """The layer with the parameters and buffers of the scripted one."""
    theirs = {**dict(_own(script.named_parameters())), **dict(_own(script.named_buffers()))}
    layer.load_state_dict({name: theirs[name] for name in layer.state_dict()})
    return layer


def _own(values: Any) -> Iterator[tuple[str, Any]]:
    """The named values that belong to a module itself, not to its parts, and are no memory."""
    return ((name, value) for name, value in values if "." not in name and f".{name}" not in MEMORY)


def _is_causal(encoder: Any) -> bool:
    """Whether convolutions look at the past only, told by the first of them: it delays by what it
    sees of the future."""
    first = next(part for part in encoder.modules() if class_name(part) == "CachedConv1d")
    return int(first.cumulative_delay) == 0


def class_name(module: Any) -> str:
    """Name of the Python class that was scripted."""
    return str(module.original_name)
