"""The training loss: the error of a denoiser, measured in its parametrisation's quantity.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentdiff.diffusion.denoiser import affine
from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import DiffusionConfig, LossKind, Parametrisation, Weighting
from latentdiff.specs import Condition, Denoise

MIN_SNR_GAMMA = 5.0
"""The default of Hang et al. 2023, arXiv 2303.09556."""


@dataclass(frozen=True)
class Objective:
    """The training loss. Baselines use the same object, so the two are always comparable."""

    parametrisation: Parametrisation = "v"
    weighting: Weighting = "uniform"
    kind: LossKind = "mse"
    huber_delta: float = 1.0

    @classmethod
    def from_config(cls, config: DiffusionConfig) -> Objective:
        """The objective that the settings describe."""
        return cls(config.parametrisation, config.weighting, config.loss, config.huber_delta)

    def __call__(
        self,
        denoise: Denoise,
        z_0: Tensor,
        logsnr: Tensor,
        noise: Tensor,
        condition: Condition,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Weighted loss [B] of `denoise` on clean latents [B, C, T] at log-SNR [B].

        `noise` is eps [B, C, T]. `mask` [B, T] is 1 on frames that count and 0 on padding; the loss
        of a sample that is all padding is 0. Raises ValueError if shapes differ, which
        broadcasting would hide.
        """
        if z_0.shape != noise.shape:
            raise ValueError(f"latents {tuple(z_0.shape)}, but noise {tuple(noise.shape)}")
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        estimate = denoise(alpha * z_0 + sigma * noise, logsnr, condition)
        if estimate.shape != z_0.shape:
            raise ValueError(f"latents {tuple(z_0.shape)}, but estimate {tuple(estimate.shape)}")
        # z_0 = a z_t + b y, and z_t is given: an error of y is that of z_0 over b. Its sign does
        # not matter to any distance.
        error = (estimate - z_0) / self.scale(logsnr)[:, None, None]
        frames = self.distance(error).mean(dim=1)
        if mask is None:
            loss = frames.mean(dim=1)
        else:
            loss = (frames * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return loss * self.weight(logsnr)

    def scale(self, logsnr: Tensor) -> Tensor:
        """Error of z_0 over error of the parametrisation's quantity; positive, like `logsnr`."""
        return affine(self.parametrisation, logsnr)[1].abs()

    def power(self, logsnr: Tensor, variance: Tensor) -> Tensor:
        """[B, C]: mean square of the parametrisation's quantity; `variance` [C] of the latents."""
        alpha, sigma = (x[:, None] for x in alpha_sigma(logsnr))
        squares = {
            "eps": torch.ones_like(sigma * variance),
            "v": alpha**2 + sigma**2 * variance,
            "x0": variance.expand(len(logsnr), -1),
            "flow": (1 + variance).expand(len(logsnr), -1),
            "regression": variance.expand(len(logsnr), -1),
        }
        return squares[self.parametrisation]

    def distance(self, error: Tensor) -> Tensor:
        """Elementwise: error^2, |error|, or Huber's (0.5 error^2 inside delta)."""
        if self.kind == "mse":
            return error**2
        if self.kind == "l1":
            return error.abs()
        zero = torch.zeros_like(error)
        return torch.nn.functional.huber_loss(error, zero, reduction="none", delta=self.huber_delta)

    def weight(self, logsnr: Tensor) -> Tensor:
        """Weight of the loss in the parametrisation's quantity, like `logsnr`.

        All but `uniform` are defined on another quantity and converted by the square of the ratio
        of the errors, which is exact for mse. min-snr: Hang et al. 2023, arXiv 2303.09556,
        gamma 5, on z_0. sigmoid: Kingma and Gao 2023, arXiv 2303.00848, app. D, bias 0, on eps.
        edm: Karras et al. 2022, arXiv 2206.00364, table 1: 1 / sigma^2 on z_0, uniform on v.
        """
        if self.weighting == "uniform":
            return torch.ones_like(logsnr)
        to_z_0 = self.scale(logsnr) ** 2
        if self.weighting == "min-snr":
            return logsnr.exp().clamp(max=MIN_SNR_GAMMA) * to_z_0
        if self.weighting == "sigmoid":
            # Errors of z_0 are sigma / alpha times those of eps: the weight on z_0 has SNR in it.
            return torch.sigmoid(-logsnr) * logsnr.exp() * to_z_0
        return to_z_0 / torch.sigmoid(-logsnr)
