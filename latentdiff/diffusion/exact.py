"""Latents of which everything is known: the best denoiser, and where the exact flow takes them.

Along orthonormal directions through all C T values the latents are independent, and along each of
them a mixture of K normals; K = 1 is the correlated Gaussian. At every noise level the marginals
are of the same kind, the posterior mean is a closed form, and the probability-flow ODE (Song et al.
2020, arXiv 2011.13456, eq. 13), which lets no value overtake another, keeps the quantile of each
value in each direction. All is computed in float64.

Shapes: B batch, C latent channels, T latent frames, N = C T directions, K parts of a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import Parametrisation
from latentdiff.specs import Condition

HALVINGS = 64
"""Of the interval in which a quantile is searched: to the last bit of float64."""

REACH = 40.0
"""Deviations around the outermost parts within which every quantile lies."""


@dataclass(frozen=True)
class Exact:
    """Such latents; called as a denoiser, they give the posterior mean of z_0."""

    shape: tuple[int, int]
    """(C, T)."""
    basis: Tensor
    """[N, N], orthonormal, a direction a column."""
    weights: Tensor
    """[K], of the parts; they sum to 1."""
    means: Tensor
    """[N, K] of the parts along each direction."""
    variances: Tensor
    """[N, K]."""

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition = Condition()) -> Tensor:  # noqa: B008
        """[B, C, T] at log-SNR [B] -> E[z_0 | z_t], in the precision of `z_t`."""
        alpha, sigma = alpha_sigma(logsnr.double()[:, None, None])
        y = self._along(z_t)[..., None]
        spread = alpha**2 * self.variances + sigma**2
        off = y - alpha * self.means
        each = self.means + alpha * self.variances / spread * off
        odds = self.weights.log() - 0.5 * (off**2 / spread + spread.log())
        return self._back((torch.softmax(odds, dim=-1) * each).sum(dim=-1)).to(z_t.dtype)

    @property
    def mean(self) -> Tensor:
        """[N] of the values in the order of C and T."""
        return self.basis @ (self.means @ self.weights)

    @property
    def covariance(self) -> Tensor:
        """[N, N] of the values in the order of C and T."""
        return self.basis @ torch.diag(self._variance) @ self.basis.T

    @property
    def channel_variance(self) -> Tensor:
        """[C], averaged over the frames."""
        return self.covariance.diagonal().unflatten(0, self.shape).mean(dim=1)

    def noisy(self, logsnr: float) -> Exact:
        """The marginal distribution of z_t at a level."""
        alpha, sigma = alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))
        variances = alpha**2 * self.variances + sigma**2
        return replace(self, means=alpha * self.means, variances=variances)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """[B, C, T], B = `count` > N: evenly spread, with exactly this mean and covariance.

        Quantiles of a scrambled Sobol sequence, then moved and stretched by the little that their
        moments are off: what is measured on them is hardly a matter of chance.
        """
        sobol = torch.quasirandom.SobolEngine(len(self.basis), scramble=True, seed=seed)
        share = sobol.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        y = self._quantile(torch.logit(share))
        y = y - y.mean(dim=0)
        root = torch.linalg.cholesky(y.T @ y / count)
        white = torch.linalg.solve_triangular(root, y.T, upper=False).T
        return self._back(self.means @ self.weights + white * self._variance.sqrt())

    def flow(self, z: Tensor, first: float, last: float) -> Tensor:
        """Where the probability-flow ODE takes z [B, C, T] from one log-SNR to another."""
        here, there = self.noisy(first), self.noisy(last)
        return self._back(there._quantile(here._score(self._along(z)))).to(z.dtype)

    @property
    def _variance(self) -> Tensor:
        """[N] along each direction."""
        mean = self.means @ self.weights
        return (self.variances + (self.means - mean[:, None]) ** 2) @ self.weights

    def _along(self, z: Tensor) -> Tensor:
        """[B, C, T] -> [B, N] along the directions."""
        return z.flatten(1).double() @ self.basis

    def _back(self, y: Tensor) -> Tensor:
        return (y @ self.basis.T).unflatten(1, self.shape)

    def _score(self, y: Tensor) -> Tensor:
        """Logit of the cumulative distribution [B, N] at y: exact in both tails."""
        standard = (y[..., None] - self.means) / self.variances.sqrt()
        below, above = (
            torch.logsumexp(self.weights.log() + torch.special.log_ndtr(x), dim=-1)
            for x in (standard, -standard)
        )
        return below - above

    def _quantile(self, score: Tensor) -> Tensor:
        """The inverse of `_score`, by halving."""
        reach = REACH * self.variances.sqrt()
        low = (self.means - reach).amin(dim=1).expand_as(score)
        high = (self.means + reach).amax(dim=1).expand_as(score)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            under = self._score(middle) < score
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return 0.5 * (low + high)


def gaussian(channels: int = 2, frames: int = 4, seed: int = 0) -> Exact:
    """Correlated latents of about unit variance: 1.3 decades of deviation, mean off zero."""
    variance, basis, g = _directions(channels, frames, seed)
    mean = 0.3 * torch.randn(len(variance), 1, generator=g, dtype=torch.float64)
    return Exact((channels, frames), basis, torch.ones(1).double(), mean, variance[:, None])


def mixture(channels: int = 2, frames: int = 4, seed: int = 0) -> Exact:
    """The same variances, along each direction in two heaps, one of them of 30 % of the latents.

    The heaps lie 4 of their own deviations apart.
    """
    variance, basis, _ = _directions(channels, frames, seed)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    centres = 4 * torch.tensor([0.7, -0.3], dtype=torch.float64)
    within = variance / (1 + centres**2 @ weights)
    means = within.sqrt()[:, None] * centres
    return Exact((channels, frames), basis, weights, means, within[:, None].expand_as(means))


def _directions(channels: int, frames: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Variances [N] that average to 1, an orthonormal basis [N, N], and what drew it."""
    n, g = channels * frames, torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    variance = torch.logspace(-1.5, 0.7, n, dtype=torch.float64)
    return variance / variance.mean(), basis, g


@dataclass(frozen=True)
class ExactNetwork:
    """A denoiser as a network that puts out a parametrisation's quantity, in single precision.

    Written from the definitions, not from `denoiser.affine`, which is to be held to it.
    """

    exact: Exact
    parametrisation: Parametrisation
    variance: Tensor | None = None
    """[C] that a preconditioning `Denoiser` was given; None: it does not precondition."""

    def __call__(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """What a network of `Denoiser` is to put out for its input z [B, C, T]."""
        alpha, sigma = alpha_sigma(logsnr.double()[:, None, None])
        if self.variance is not None:
            return self._rest(z.double(), logsnr, alpha, sigma).float()
        z_0 = self.exact(z.double(), logsnr)
        eps = (z - alpha * z_0) / sigma
        quantity = {"eps": eps, "x0": z_0, "v": alpha * eps - sigma * z_0, "flow": eps - z_0}
        return quantity[self.parametrisation].float()

    def _rest(self, z: Tensor, logsnr: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What is missing to z_0 from the best linear guess, over its deviation [B, C, T]."""
        assert self.variance is not None
        s = self.variance.double()[:, None]
        level = alpha**2 * s + sigma**2
        z_t = z * level.sqrt()
        missing = alpha * s / level * z_t - self.exact(z_t, logsnr)
        return missing / (sigma * (s / level).sqrt())
