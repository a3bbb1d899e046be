"""Models that `rave export` wrote: TorchScript files, as people share them.

Their own `encode` draws from the posterior, rotates it and drops directions; their own `decode`
fills those with noise. So neither is called: the parts inside are, and they are RAVE's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentdiff.errors import UserError
from latentdiff.rave.load import codec_weights
from latentdiff.rave.net import check_kind, draws_noise, unsupported

_NEEDED = ("encoder", "decoder", "pqmf", "encode_params", "decode_params", "full_latent_size")


def load_export(path: Path, device: torch.device) -> tuple[ExportNet, dict[str, Tensor]]:
    """The network inside a TorchScript file, and its weights by name.

    Raises UserError where it is missing, damaged, no RAVE, or not usable without its state.
    """
    if not path.is_file():
        raise UserError(f"no exported model at {path}", do_this="check --rave.")
    try:
        script = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an exported model",
            why="it is damaged, or no TorchScript: " + str(error).strip().splitlines()[0],
            do_this="copy it again, or export the run anew with `rave export`.",
        ) from error
    missing = [name for name in _NEEDED if not hasattr(script, name)]
    if missing:
        raise UserError(
            f"{path} is no RAVE", why=f"it has no {', '.join(missing)}", do_this="check --rave."
        )
    _check(script)
    weights = codec_weights(script.state_dict())
    return ExportNet(script.eval().to(device)), weights


def _check(script: Any) -> None:
    classes = _classes(script)
    if any(name.startswith(("CachedConv", "CachedPadding")) for name in _classes(script.encoder)):
        raise UserError(
            "this model was exported for streaming",
            why="its layers keep the end of what they last heard and answer late, so no two calls "
            "give the same latents",
            do_this="export the run again without --streaming, or give the run itself.",
        )
    check_kind(script.encoder.original_name)
    if getattr(script, "resampler", None) is not None:
        raise unsupported("it was exported with --sr; export it at its own sample rate")
    if script.input_mode == "mel":
        raise unsupported("its encoder takes a mel spectrogram, not sound")
    if classes & {"GRU", "LSTM"}:
        raise unsupported("it has recurrent layers, whose memory has no end")


def _classes(module: Any) -> set[str]:
    return {part.original_name for part in module.modules()}


class ExportNet:
    """The parts of a scripted RAVE in the order in which RAVE uses them."""

    def __init__(self, script: Any) -> None:
        self._script = script
        self.kind = str(script.encoder.original_name)
        self.sample_rate, self.channels = int(script.sr), int(script.n_channels)
        self.latent_dim = int(script.full_latent_size)
        self.hop = int(script.encode_params[3])
        self.noise_channels = int(getattr(script.encoder, "noise_augmentation", 0))
        self.noisy = draws_noise(_classes(script.decoder))

    def analyse(self, audio: Tensor) -> Tensor:
        if self._script.input_mode == "pqmf":
            bands = self._script.pqmf(audio.reshape(-1, 1, audio.shape[-1]))
            audio = bands.reshape(audio.shape[0], -1, bands.shape[-1])
        return self._script.encoder(audio)

    def synthesise(self, z: Tensor) -> Tensor:
        audio = self._script.decoder(z)
        if self._script.output_mode == "pqmf":
            bands = audio.reshape(audio.shape[0] * self.channels, -1, audio.shape[-1])
            audio = self._script.pqmf.inverse(bands).reshape(z.shape[0], self.channels, -1)
        return audio
