"""Distributions of latents with a closed-form ideal denoiser and exact probability flow.

Along N = C T orthonormal directions the latents are independent, and each is a mixture of K
normals; K = 1 is a correlated Gaussian. At every noise level the marginals are of the same kind and
the posterior mean is a closed form. The probability-flow ODE (Song et al. 2020, arXiv 2011.13456,
eq. 13) is one-dimensional in each direction, where paths cannot cross: it keeps every value's
quantile. Everything is computed in float64, so that errors are a sampler's and not of rounding.

Shapes: B batch, C latent channels, T latent frames, N = C T directions, K mixture components.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentdiff.diffusion.noise import alpha_sigma
from latentdiff.diffusion.settings import Parametrisation
from latentdiff.specs import NO_CONDITION, Condition

HALVINGS = 64
"""Bisections in the search for a quantile; enough for the last bit of float64."""

REACH = 40.0
"""Quantiles are searched within this many deviations of the outermost components."""


@dataclass(frozen=True)
class Exact:
    """A distribution of latents; called as a denoiser, it gives the posterior mean of z_0."""

    shape: tuple[int, int]
    """(C, T)."""
    basis: Tensor
    """[N, N], orthonormal; each column is a direction."""
    weights: Tensor
    """[K] of the components; they sum to 1."""
    means: Tensor
    """[N, K] of the components along each direction."""
    variances: Tensor
    """[N, K]."""

    def __call__(self, z_t: Tensor, logsnr: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """[B, C, T] at log-SNR [B] -> E[z_0 | z_t], in the precision of `z_t`."""
        alpha, sigma = alpha_sigma(logsnr.double()[:, None, None])
        y = self._along(z_t)[..., None]
        spread = alpha**2 * self.variances + sigma**2
        off = y - alpha * self.means
        # The posterior mean of each component, weighted by the probability that y came from it.
        each = self.means + alpha * self.variances / spread * off
        odds = self.weights.log() - 0.5 * (off**2 / spread + spread.log())
        return self._back((torch.softmax(odds, dim=-1) * each).sum(dim=-1)).to(z_t.dtype)

    @property
    def mean(self) -> Tensor:
        """[N] of the values, ordered by C, then T."""
        return self.basis @ (self.means @ self.weights)

    @property
    def covariance(self) -> Tensor:
        """[N, N] of the values, ordered by C, then T."""
        return (self.basis * self._variance) @ self.basis.T

    @property
    def channel_variance(self) -> Tensor:
        """[C], averaged over the frames."""
        variances: Tensor = self.covariance.diagonal().unflatten(0, self.shape)
        return variances.mean(dim=1)

    def noisy(self, logsnr: float) -> Exact:
        """The marginal distribution of z_t at a log-SNR."""
        alpha, sigma = alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))
        variances = alpha**2 * self.variances + sigma**2
        return replace(self, means=alpha * self.means, variances=variances)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """[B, C, T], B = `count` > N: evenly spread, with exactly this mean and covariance.

        Quantiles of a scrambled Sobol sequence, whose moments are then corrected, so that what is
        measured on them hardly depends on chance.
        """
        sobol = torch.quasirandom.SobolEngine(len(self.basis), scramble=True, seed=seed)
        share = sobol.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        y = self._quantile(torch.logit(share))
        y = y - y.mean(dim=0)
        # Whitened by the Cholesky factor of its own covariance, then scaled to the wanted one.
        root = torch.linalg.cholesky(y.T @ y / count)
        white = torch.linalg.solve_triangular(root, y.T, upper=False).T
        return self._back(self.means @ self.weights + white * self._variance.sqrt())

    def flow(self, z: Tensor, first: float, last: float) -> Tensor:
        """Solve the probability-flow ODE for z [B, C, T] from one log-SNR to another."""
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
        values: Tensor = (y @ self.basis.T).unflatten(1, self.shape)
        return values

    def _score(self, y: Tensor) -> Tensor:
        """Logit of the cumulative distribution at y [B, N]; accurate in both tails."""
        standard = (y[..., None] - self.means) / self.variances.sqrt()
        # In logarithms: a quantile near 1 would lose its digits as a float64.
        below, above = (
            torch.logsumexp(self.weights.log() + torch.special.log_ndtr(x), dim=-1)
            for x in (standard, -standard)
        )
        return below - above

    def _quantile(self, score: Tensor) -> Tensor:
        """The inverse of `_score`, by bisection."""
        reach = REACH * self.variances.sqrt()
        low = (self.means - reach).amin(dim=1).expand_as(score)
        high = (self.means + reach).amax(dim=1).expand_as(score)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            under = self._score(middle) < score
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return 0.5 * (low + high)


def gaussian(channels: int = 2, frames: int = 4, seed: int = 0) -> Exact:
    """Correlated Gaussian latents: mean variance 1, deviations over 1.1 decades, mean not 0."""
    variance, basis, g = _directions(channels, frames, seed)
    mean = 0.3 * torch.randn(len(variance), 1, generator=g, dtype=torch.float64)
    return Exact((channels, frames), basis, torch.ones(1).double(), mean, variance[:, None])


def mixture(channels: int = 2, frames: int = 4, seed: int = 0) -> Exact:
    """The variances of `gaussian`, each direction with two modes of 30 % and 70 %.

    The modes are 4 of their own deviations apart.
    """
    variance, basis, _ = _directions(channels, frames, seed)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    # 4 apart, with weighted mean 0.
    centres = 4 * torch.tensor([0.7, -0.3], dtype=torch.float64)
    within = variance / (1 + centres**2 @ weights)
    means = within.sqrt()[:, None] * centres
    return Exact((channels, frames), basis, weights, means, within[:, None].expand_as(means))


def _directions(channels: int, frames: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Variances [N] that average to 1, an orthonormal basis [N, N], and the generator used."""
    n, g = channels * frames, torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    variance = torch.logspace(-1.5, 0.7, n, dtype=torch.float64)
    return variance / variance.mean(), basis, g


@dataclass(frozen=True)
class ExactNetwork:
    """An exact denoiser as a network that predicts a parametrisation's quantity, in float32.

    Written from the definitions and not with `denoiser.affine`, which is tested against it.
    """

    exact: Exact
    parametrisation: Parametrisation
    variance: Tensor | None = None
    """[C], the variance of a preconditioning `Denoiser`; None: it does not precondition."""

    def __call__(self, z: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """The ideal output [B, C, T] of a `Denoiser`'s network for its input z [B, C, T]."""
        alpha, sigma = alpha_sigma(logsnr.double()[:, None, None])
        if self.variance is not None:
            return self._rest(z.double(), logsnr, alpha, sigma).float()
        z_0 = self.exact(z.double(), logsnr)
        eps = (z - alpha * z_0) / sigma
        quantity = {"eps": eps, "x0": z_0, "v": alpha * eps - sigma * z_0, "flow": eps - z_0}
        return quantity[self.parametrisation].float()

    def _rest(self, z: Tensor, logsnr: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The estimate that knows variances only less z_0, scaled to unit variance [B, C, T]."""
        assert self.variance is not None
        s = self.variance.double()[:, None]
        level = alpha**2 * s + sigma**2
        z_t = z * level.sqrt()
        missing = alpha * s / level * z_t - self.exact(z_t, logsnr)
        return missing / (sigma * (s / level).sqrt())
