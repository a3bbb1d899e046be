"""A trained RAVE as a `specs.Codec`: deterministic, stateless, exact when run in chunks.

Shapes: B batch, D latent dimensions, N audio samples, T latent frames.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from latentdiff.errors import UserError
from latentdiff.rave.exported import load_export
from latentdiff.rave.load import Origin, codec_weights, load_rave
from latentdiff.rave.net import CodecNet, RunNet
from latentdiff.rave.noise import FrameNoise

log = logging.getLogger(__name__)

_PROBE_FRAMES = 32
"""Latent frames of the first probe; doubled until the context fits."""
_PROBE_LIMIT = 4096
"""Latent frames. A context that does not fit into this is taken to be unbounded."""


class RaveCodec:
    """A frozen RAVE; see `specs.Codec` for the contract.

    Mean and standard deviation are those of the posterior that RAVE samples from (Caillon and
    Esling, RAVE, 2021): std = softplus(scale) + 1e-4. Wasserstein and spherical encoders have no
    posterior, so their std is 0. RAVE's random noise is replaced: noise-augmentation channels are
    zero, and the noise that a decoder shapes is a function of its latent frame (`FrameNoise`).
    Decoding twice, in chunks, or in another batch therefore gives the same sound.

    Raises UserError where the network cannot be run in chunks.
    """

    def __init__(
        self, net: CodecNet, fingerprint: str, origin: Origin, device: str | torch.device = "cpu"
    ) -> None:
        self._net = net
        self._device = torch.device(device)
        self.sample_rate, self.hop = net.sample_rate, net.hop
        self.latent_dim, self.channels = net.latent_dim, net.channels
        self.fingerprint = fingerprint
        self.origin = origin
        self.encode_context = _context(self._probe_encoder)
        self.decode_context = _context(self._probe_decoder)

    @classmethod
    def open(
        cls,
        path: Path,
        ckpt: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> RaveCodec:
        """`from_export` for a `.ts` file, else `from_run`; logs which weights it uses."""
        if path.suffix == ".ts":
            if ckpt is not None:
                raise UserError(
                    f"{path} is an exported model, not checkpoints to choose from",
                    do_this="leave out --ckpt.",
                )
            codec = cls.from_export(path, device)
        else:
            codec = cls.from_run(path, ckpt, device)
        log.info("codec: %s", codec.describe())
        return codec

    @classmethod
    def from_run(
        cls,
        run: Path,
        ckpt: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> RaveCodec:
        """Our `rave` stage or a run of `rave train`; `ckpt` is `last` (None), `best` or a path.

        Raises UserError where it is missing, damaged, does not fit its config, or not supported.
        """
        model, origin = load_rave(run, ckpt)
        fingerprint = fingerprint_of(codec_weights(model.state_dict()))
        return cls(RunNet(model, torch.device(device)), fingerprint, origin, device)

    @classmethod
    def from_export(cls, path: Path, device: str | torch.device = "cpu") -> RaveCodec:
        """A `.ts` file of `rave export`, with or without `--streaming`.

        Its fingerprint differs from that of the run it was exported from. Loading a TorchScript
        file runs TorchScript only: an untrusted file can waste time, but cannot call Python. Raises
        UserError where the file is damaged, no RAVE, or exported with `--sr`.
        """
        net, weights = load_export(path, torch.device(device))
        return cls(net, fingerprint_of(weights), Origin(path, None, None), device)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.origin.describe()}: {self.sample_rate} Hz, {self.channels} channel"
            f"{'s' * (self.channels > 1)}, {self.latent_dim} latents every {self.hop} samples"
        )

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """[B, channels, N] -> mean and std [B, D, ceil(N / hop)]; the end is padded with zeros."""
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[2] == 0:
            raise ValueError(f"audio must be [B, {self.channels}, N > 0], not {audio.shape}")
        padded = nn.functional.pad(audio, (0, -audio.shape[-1] % self.hop))
        raw = self._net.analyse(padded.to(self._device, torch.float32))
        if self._net.kind == "VariationalEncoder":
            mean, scale = raw.chunk(2, 1)
            return mean, nn.functional.softplus(scale) + 1e-4
        if self._net.kind == "SphericalEncoder":
            raw = nn.functional.normalize(raw, dim=1)
        return raw, torch.zeros_like(raw)

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        """[B, D, T] -> audio [B, channels, T * hop]; it may exceed -1..1."""
        if z.ndim != 3 or z.shape[1] != self.latent_dim or z.shape[2] == 0:
            raise ValueError(f"latents must be [B, {self.latent_dim}, T > 0], not {z.shape}")
        z = z.to(self._device, torch.float32)
        frames = z.shape[-1]
        if self._net.kind == "SphericalEncoder":
            z = nn.functional.normalize(z, dim=1)
        z = nn.functional.pad(z, (0, 0, 0, self._net.noise_channels))
        if self._net.noisy:
            with FrameNoise(z):
                audio = self._net.synthesise(z)
        else:
            audio = self._net.synthesise(z)
        # With odd ratios, RAVE's upsampling layers add samples at the end.
        return audio[..., : frames * self.hop]

    def _probe_encoder(self, frames: int, at: int) -> Tensor:
        """Which of `frames` latents [T] depend on the sound of frame `at`."""
        audio = torch.zeros(1, self.channels, frames * self.hop)
        audio[..., at * self.hop : (at + 1) * self.hop] = torch.nan
        return self.encode(audio)[0].isnan().any(1)[0]

    def _probe_decoder(self, frames: int, at: int) -> Tensor:
        """Which of `frames` frames of sound [T] depend on latent `at`."""
        z = torch.zeros(1, self.latent_dim, frames)
        z[..., at] = torch.nan
        return self.decode(z).isnan().any(1)[0].reshape(frames, -1).any(1)


def _context(probe: Callable[[int, int], Tensor]) -> tuple[int, int]:
    """Frames (left, right) that a frame depends on, as overlap for running in chunks.

    One frame of NaN goes in and NaN comes out wherever that frame has any influence. Unlike a sum
    of paddings this is exact for any mixture of layers, and unlike a gradient it cannot vanish.
    Raises UserError where the influence has no end.
    """
    frames = _PROBE_FRAMES
    while frames <= _PROBE_LIMIT:
        at = frames // 2
        reached = probe(frames, at).nonzero().flatten()
        first, last = int(reached[0]), int(reached[-1])
        # NaN at the border may have been cut off there: only an unreached frame on each side proves
        # that the context ends.
        if first > 0 and last < frames - 1:
            # Frame `at` reaches `last` frames ahead, so a frame depends on as many to its left.
            return last - at, at - first
        frames *= 2
    raise UserError(
        "this RAVE cannot be run in chunks",
        why="every frame depends on all others (a recurrent layer or a normalisation over time)",
        do_this="use a model without such layers.",
    )


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """Hex sha256 of names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
