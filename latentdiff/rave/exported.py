"""Models that `rave export` wrote: TorchScript files, the form in which people share them.

An export's own `encode` samples the posterior, rotates the latents and drops directions; its own
`decode` fills those with noise. A codec needs none of that, so `ExportNet` calls the parts inside,
in the order in which RAVE does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule

from latentdiff.errors import UserError
from latentdiff.rave.load import codec_weights
from latentdiff.rave.net import check_supported, draws_noise, unsupported
from latentdiff.rave.streaming_export import MEMORY, StatelessExport, class_name, is_streaming

_NEEDED = ("encoder", "decoder", "pqmf", "encode_params", "decode_params", "full_latent_size")
_RECURRENT = {"GRU", "LSTM"}


def load_export(path: Path, device: torch.device) -> tuple[ExportNet, dict[str, Tensor]]:
    """The network inside a TorchScript file, and its codec weights by name.

    Raises UserError where it is missing, damaged, not a RAVE model, or not supported.
    """
    script = _read(path)
    missing = [name for name in _NEEDED if not hasattr(script, name)]
    if missing:
        raise UserError(
            f"{path} is not an exported RAVE model",
            why=f"it has no {', '.join(missing)}",
            do_this="check --rave.",
        )
    _check(script)
    weights = {
        name: value
        for name, value in codec_weights(script.state_dict()).items()
        if not name.endswith(MEMORY)
    }
    return ExportNet(script, device), weights


def _read(path: Path) -> ScriptModule:
    if not path.is_file():
        raise UserError(f"no exported model at {path}", do_this="check --rave.")
    try:
        script: ScriptModule = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an exported model",
            why="it is damaged, or not TorchScript: " + str(error).strip().splitlines()[0],
            do_this="copy it again, or export the run again with `rave export`.",
        ) from error
    return script


def _check(script: ScriptModule) -> None:
    check_supported(
        class_name(script.encoder), str(script.input_mode), bool(_classes(script) & _RECURRENT)
    )
    if getattr(script, "resampler", None) is not None:
        raise unsupported(
            "it was exported with --sr and resamples inside",
            do_this="export the run again without --sr, or use the run itself.",
        )


def _classes(module: nn.Module) -> set[str]:
    return {class_name(part) for part in module.modules()}


class ExportNet:
    """A scripted RAVE reduced to its codec; see `net.CodecNet`."""

    def __init__(self, script: ScriptModule, device: torch.device) -> None:
        self._parts: Any = script.eval()
        self.streaming = is_streaming(script)
        if self.streaming:
            self._parts = StatelessExport(script)
        self._parts.to(device)
        self.kind = class_name(script.encoder)
        self.sample_rate, self.channels = int(script.sr), int(script.n_channels)
        self.latent_dim = int(script.full_latent_size)
        # RAVE's (channels in, ratio in, channels out, ratio out); the last one is the hop.
        self.hop = int(script.encode_params[3])
        self.noise_channels = int(getattr(script.encoder, "noise_augmentation", 0))
        self.noisy = draws_noise(_classes(script.decoder))

    def analyse(self, audio: Tensor) -> Tensor:
        """See `net.CodecNet`."""
        if self._parts.input_mode == "pqmf":
            # The filter bank splits single channels: [B * channels, 1, N] -> bands of each.
            bands = self._parts.pqmf(audio.reshape(-1, 1, audio.shape[-1]))
            audio = bands.reshape(audio.shape[0], -1, bands.shape[-1])
        encoded: Tensor = self._parts.encoder(audio)
        return encoded

    def synthesise(self, z: Tensor) -> Tensor:
        """See `net.CodecNet`."""
        audio: Tensor = self._parts.decoder(z)
        if self._parts.output_mode == "pqmf":
            bands = audio.reshape(audio.shape[0] * self.channels, -1, audio.shape[-1])
            audio = self._parts.pqmf.inverse(bands).reshape(z.shape[0], self.channels, -1)
        return audio
