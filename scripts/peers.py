"""Other models for the same latents, each configured as by its authors.

Peers see globally standardised latents: one mean and one deviation for all dimensions, as
RAVE-Latent-Diffusion's preprocess.py does it. They come with `pip install .[compare]`.

Shapes: B windows, D latent dimensions, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latentdiff.torchaudio_guard import import_torchaudio


class Peer(Protocol):
    """A network with the noise, the loss and the sampler of its own library."""

    network: nn.Module
    parametrisation: str
    """The target of its loss: eps or v."""

    def loss(self, y: Tensor) -> Tensor:
        """Training loss on a batch of clean latents [B, D, T]."""
        ...

    def levels(self, count: int) -> list[float]:
        """`count` log-SNRs, spread over its own time as in its training."""
        ...

    def denoise(self, y_t: Tensor, logsnr: float) -> Tensor:
        """Noisy latents [B, D, T] at one of `levels` -> its estimate of the clean ones."""
        ...

    def sample(self, noise: Tensor, steps: int) -> Tensor:
        """White noise [B, D, T] -> new latents, by its own sampler."""
        ...


class UNet1D:
    """diffusers' UNet1DModel under DDPMScheduler's defaults: betas 1e-4..0.02, 1000 steps, eps.

    Sampled with DDIM, or with DDPM if all its steps are requested. Of the defaults
    only `clip_sample` is off: it would cut latents of unit deviation off at one deviation.
    """

    parametrisation = "eps"

    def __init__(self, dimensions: int, channels: tuple[int, ...]) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet1DModel

        self._chain = DDPMScheduler(clip_sample=False)
        self._ddim = DDIMScheduler.from_config(self._chain.config)
        self.network = UNet1DModel(
            in_channels=dimensions,
            out_channels=dimensions,
            # Room for the embedding of the time step, which is laid beside the latents.
            extra_in_channels=channels[0],
            time_embedding_type="positional",
            block_out_channels=channels,
        )
        kept = self._chain.alphas_cumprod.double()
        self._logsnr = (kept / (1 - kept)).log()

    def loss(self, y: Tensor) -> Tensor:
        noise = torch.randn_like(y)
        steps = torch.randint(len(self._logsnr), (len(y),))
        output = self.network(self._chain.add_noise(y, noise, steps), steps).sample
        return nn.functional.mse_loss(output, noise)

    def levels(self, count: int) -> list[float]:
        steps = ((torch.arange(count) + 0.5) / count * len(self._logsnr)).long()
        return self._logsnr[steps].tolist()

    def denoise(self, y_t: Tensor, logsnr: float) -> Tensor:
        step = int((self._logsnr - logsnr).abs().argmin())
        kept = float(self._chain.alphas_cumprod[step])
        eps = self.network(y_t, torch.tensor(step)).sample
        return (y_t - math.sqrt(1 - kept) * eps) / math.sqrt(kept)

    def sample(self, noise: Tensor, steps: int) -> Tensor:
        scheduler = self._chain if steps == len(self._logsnr) else self._ddim
        scheduler.set_timesteps(steps)
        y = noise
        for step in scheduler.timesteps:
            y = scheduler.step(self.network(y, step).sample, step, y).prev_sample
        return y


class UNetV0:
    """audio-diffusion-pytorch's DiffusionModel: UNetV0, VDiffusion, VSampler; v, uniform in t."""

    parametrisation = "v"

    def __init__(self, dimensions: int, **shape: Any) -> None:
        # It imports torchaudio, which may be built for another version of torch.
        import_torchaudio()
        from audio_diffusion_pytorch import DiffusionModel, VDiffusion, VSampler
        from audio_diffusion_pytorch import UNetV0 as Network

        self.network = DiffusionModel(
            net_t=Network,
            in_channels=dimensions,
            diffusion_t=VDiffusion,
            sampler_t=VSampler,
            **shape,
        )

    def loss(self, y: Tensor) -> Tensor:
        return self.network(y)

    def levels(self, count: int) -> list[float]:
        times = [(k + 0.5) / count for k in range(count)]
        return [-2 * math.log(math.tan(math.pi / 2 * time)) for time in times]

    def denoise(self, y_t: Tensor, logsnr: float) -> Tensor:
        time = math.atan(math.exp(-logsnr / 2)) / (math.pi / 2)
        alpha, sigma = math.cos(time * math.pi / 2), math.sin(time * math.pi / 2)
        return alpha * y_t - sigma * self.network.net(y_t, torch.full((len(y_t),), time))

    def sample(self, noise: Tensor, steps: int) -> Tensor:
        return self.network.sample(noise, num_steps=steps)


@dataclass(frozen=True)
class Case:
    """A peer and how it is trained."""

    name: str
    what: str
    build: Callable[[int], Peer]
    """Builds the peer for D latent dimensions."""
    steps: int
    """Sampler steps."""
    batch: int = 32
    window: int = 128
    """Frames."""
    multiple: int = 8
    """Frames that a sample must be a multiple of."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    decays: bool = True
    """Warm-up and a cosine to zero over the time given; else the rate stays."""
    averages: bool = True
    """Sampled from averaged weights."""
    joins: bool = False
    """Files are laid end to end: its window is longer than most recordings."""


def _rave_latent_diffusion(dimensions: int) -> Peer:
    # The shape in train.py of github.com/moiseshorta/RAVE-Latent-Diffusion.
    return UNetV0(
        dimensions,
        channels=[256, 256, 256, 256, 512, 512, 512, 768, 768],
        factors=[1, 4, 4, 4, 2, 2, 2, 2, 2],
        items=[1, 2, 2, 2, 2, 2, 2, 4, 4],
        attentions=[0, 0, 0, 0, 0, 1, 1, 1, 1],
        attention_heads=12,
        attention_features=64,
    )


def _small_unetv0(dimensions: int) -> Peer:
    return UNetV0(
        dimensions,
        channels=[64, 64, 96, 128],
        factors=[1, 2, 2, 2],
        items=[1, 1, 1, 1],
        attentions=[0, 0, 1, 1],
        attention_heads=4,
        attention_features=32,
        modulation_features=128,
    )


CASES = {
    case.name: case
    for case in (
        Case(
            "unet1d",
            "diffusers UNet1DModel (128, 128, 256), DDPM betas, eps; DDIM",
            lambda dimensions: UNet1D(dimensions, (128, 128, 256)),
            steps=50,
            # As in diffusers' examples/unconditional_image_generation.
            learning_rate=1e-4,
            weight_decay=1e-6,
        ),
        Case(
            "unet1d-fast",
            "the same at a learning rate of 1e-3",
            lambda dimensions: UNet1D(dimensions, (128, 128, 256)),
            steps=50,
        ),
        Case(
            "unet1d-small",
            "diffusers UNet1DModel with its default channels, learning rate 1e-3; DDIM",
            lambda dimensions: UNet1D(dimensions, (32, 32, 64)),
            steps=50,
        ),
        Case(
            "rave-latent-diffusion",
            "audio-diffusion-pytorch UNetV0 as RAVE-Latent-Diffusion trains it",
            _rave_latent_diffusion,
            steps=100,
            # Its train.py accumulates two batches of 8 but drops the gradient of the first.
            batch=8,
            # The least of its preprocess.py, and the least that its strides can take.
            window=2048,
            multiple=2048,
            learning_rate=1e-4,
            weight_decay=1e-5,
            decays=False,
            averages=False,
            joins=True,
        ),
        Case(
            "unetv0-small",
            "audio-diffusion-pytorch UNetV0 of about our size, learning rate 1e-3",
            _small_unetv0,
            steps=100,
        ),
    )
}
