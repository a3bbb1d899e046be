"""The contract of all models: noisy latents in, an estimate of the clean latents out.

Whether the network predicts velocity, noise, clean latents or flow matters here and nowhere else.

Shapes: B batch, C latent channels, T latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import Parametrisation
from latentdiff.specs import NO_CONDITION, Condition, Denoise, Network


def affine(parametrisation: Parametrisation, logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b), shaped like `logsnr`: z_0 = a * z_t + b * y for the parametrisation's quantity y.

    eps: the noise. x0: z_0. v = alpha eps - sigma z_0 (Salimans and Ho 2022, arXiv 2202.00512,
    app. D). flow = eps - z_0 (Lipman et al. 2022, arXiv 2210.02747). regression: z_0.
    """
    alpha, sigma = alpha_sigma(logsnr)
    if parametrisation == "v":
        return alpha, -sigma
    if parametrisation == "eps":
        return 1 / alpha, -sigma / alpha
    if parametrisation == "flow":
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    return torch.zeros_like(alpha), torch.ones_like(alpha)


def knows_variance(z_t: Tensor, logsnr: Tensor, variance: Tensor | None = None) -> Tensor:
    """[B, C, T]: the best estimate of z_0 that knows only the variance S [C] of each channel.

    alpha S / (alpha^2 S + sigma^2) z_t. None: unit variance, for which it is alpha z_t.
    """
    alpha, sigma = alpha_sigma(logsnr[:, None, None])
    if variance is None:
        return alpha * z_t
    s = variance.to(z_t.device)[:, None]
    return alpha * s / (alpha**2 * s + sigma**2) * z_t


class Denoiser(nn.Module):
    """A network with its parametrisation: `denoise(z_t, logsnr, condition) -> z_0`.

    With preconditioning, the network's output is added to the best estimate that knows only the
    `variance` [C] of each channel, scaled so that input and target of the network have unit
    variance (Karras et al. 2022, arXiv 2206.00364, sec. 5, channel by channel). The target is then
    the velocity of the latents scaled to unit variance, whatever the parametrisation: a network
    whose output is zero has skill 0 at every level, and parametrisations differ only in how the
    loss is measured. Without, the input is z_t and the output the parametrisation's quantity.

    regression: the network's input is zero instead of z_t, so it only knows the condition, and its
    output is z_0 over its standard deviation. One call gives the whole answer, at any level.
    """

    variance: Tensor | None

    def __init__(
        self,
        network: Network,
        parametrisation: Parametrisation = "v",
        precondition: bool = True,
        variance: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation
        self.precondition = precondition
        # Not saved with the weights, because the whitening is. None: ones.
        self.register_buffer("variance", variance, persistent=False)

    def forward(self, z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """[B, C, T], [B], condition -> z_0 [B, C, T].

        Raises ValueError if the network's output does not have the shape of its input.
        """
        if self.parametrisation == "regression":
            return self._deviation * self._call(torch.zeros_like(z_t), logsnr, condition)
        if not self.precondition:
            a, b = affine(self.parametrisation, logsnr[:, None, None])
            return a * z_t + b * self._call(z_t, logsnr, condition)
        alpha, sigma = alpha_sigma(logsnr[:, None, None])
        if self.variance is None:
            return alpha * z_t - sigma * self._call(z_t, logsnr, condition)
        # Deviation of z_t, by which it is scaled for the network.
        level = (alpha**2 * self.variance[:, None] + sigma**2).sqrt()
        rest = self._call(z_t / level, logsnr, condition)
        known = knows_variance(z_t, logsnr, self.variance)
        # What `known` leaves has the variance S sigma^2 / level^2: the network's target has 1. The
        # sign is that of the velocity, alpha eps - sigma z_0.
        return known - sigma * self._deviation / level * rest

    @property
    def _deviation(self) -> Tensor | float:
        return 1.0 if self.variance is None else self.variance.sqrt()[:, None]

    def _call(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        output = self.network(z, logsnr, condition)
        if output.shape != z.shape:
            # Broadcasting would hide this, and the loss would stay at that of white noise.
            raise ValueError(
                f"the network's output has the shape {tuple(output.shape)}, and must have that of "
                f"its input, {tuple(z.shape)}"
            )
        return output.to(z.dtype)


def guided(
    denoise: Denoise,
    scale: float,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6, on z_0).

    `scale` 1: none; 0: the condition is ignored. `interval`: log-SNR (low, high) in which it acts
    (Kynkäänniemi et al. 2024, arXiv 2404.07724). `rescale`: share 0..1 by which the deviation of
    each sample is pulled back to the unguided one (Lin et al. 2023, arXiv 2305.08891, eq. 15-16).
    Two network calls inside the interval; one outside, and for samples without a condition.
    """
    if scale == 1.0:
        return denoise
    low, high = interval or (-float("inf"), float("inf"))

    def denoise_guided(z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        with_condition = denoise(z_t, logsnr, condition)
        inside = (logsnr >= low) & (logsnr <= high)
        # Without a condition the second call would give the same again.
        if not condition or not inside.any():
            return with_condition
        without = denoise(z_t, logsnr, NO_CONDITION)
        z_0 = without + scale * (with_condition - without)
        if rescale:
            ratio = _deviation(with_condition) / _deviation(z_0).clamp(min=1e-8)
            z_0 = z_0 * (1 - rescale + rescale * ratio)
        return torch.where(inside[:, None, None], z_0, with_condition)

    return denoise_guided


def autoguided(
    denoise: Denoise, scale: float, interval: tuple[float, float], variance: Tensor | None = None
) -> Denoise:
    """Autoguidance (Karras et al. 2024, arXiv 2406.02507): extrapolate away from a worse model.

    The worse model here knows only the variance [C] of each channel: a closed form that costs no
    network call. Undertrained models pull samples towards their mean at levels where only coarse
    structure is visible, and so make them quiet and similar; this compensates. `scale` 1: none.
    `interval`: log-SNR (low, high) in which it acts.
    """
    if scale == 1.0:
        return denoise
    low, high = interval

    def denoise_autoguided(z_t: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        z_0 = denoise(z_t, logsnr, condition)
        inside = ((logsnr >= low) & (logsnr <= high))[:, None, None]
        known = knows_variance(z_t, logsnr, variance)
        return torch.where(inside, known + scale * (z_0 - known), z_0)

    return denoise_autoguided


@dataclass(frozen=True)
class ConditionDropout:
    """Probabilities with which a training window loses its condition."""

    everything: float = 0.0
    """Of losing all kinds at once."""
    alone: Mapping[str, float] = field(default_factory=dict)
    """Kind -> further probability of losing that kind, whatever happens to the others."""

    def draw(
        self, kinds: Iterable[str], batch: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Kind -> [B] bool, False for the windows that lose it; empty if nothing can be lost."""
        keep: dict[str, Tensor] = {}
        if self.everything:
            all_kept = torch.rand(batch, generator=generator) >= self.everything
            keep = dict.fromkeys(kinds, all_kept)
        for kind in kinds:
            if probability := self.alone.get(kind, 0.0):
                own = torch.rand(batch, generator=generator) >= probability
                keep[kind] = own & keep[kind] if kind in keep else own
        return keep


NO_DROPOUT = ConditionDropout()
"""Every window keeps its condition."""


def _deviation(z: Tensor) -> Tensor:
    return z.std(dim=(1, 2), keepdim=True)
