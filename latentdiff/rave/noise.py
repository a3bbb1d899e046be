"""Noise for decoders that shape some: a function of the latent frame, not of time or chance.

Shapes: B batch, D latent dimensions, T latent frames.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentdiff.rave.net import unsupported


class FrameNoise(TorchDispatchMode):
    """Within it, `rand_like` of [B, T * m, ...] draws frame t from a generator seeded by z[..., t].

    RAVE's noise generator draws m noise frames per latent frame. Drawn afresh they would differ
    from call to call, and between a file in chunks and the file in one piece.

    Raises UserError, on the draw, where m is not a whole number.
    """

    def __init__(self, z: Tensor) -> None:
        """`z`: the latents [B, D, T] that are about to be decoded."""
        super().__init__()
        frames = z.detach().cpu().transpose(1, 2).contiguous().numpy()  # [B, T, D]
        # The seed is a hash of the frame's bytes: the frame's place in a chunk or batch must not
        # matter, and equal frames may well get equal noise.
        self._seeds = [[_seed(frame.tobytes()) for frame in row] for row in frames]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace `rand_like`, pass every other operator on."""
        if func is torch.ops.aten.rand_like.default:
            return self._draw(args[0])
        return func(*args, **(kwargs or {}))

    def _draw(self, like: Tensor) -> Tensor:
        frames, wanted = len(self._seeds[0]), like.shape[1]
        if wanted % frames:
            raise unsupported(
                f"its decoder shapes {wanted} frames of noise for {frames} latents, so there is no "
                "whole number of them for each",
                do_this="use a model whose noise frames divide its latent frames: the product of "
                "rave.ratios must be a multiple of that of the noise generator's own ratios (64 "
                "for v1, 8 for the modifier noise).",
            )
        shape = (wanted // frames, *like.shape[2:])
        # Drawn on the CPU: other devices give other numbers for the same seed.
        generator = torch.Generator()
        rows = [
            torch.cat([torch.rand(shape, generator=generator.manual_seed(seed)) for seed in row])
            for row in self._seeds
        ]
        return torch.stack(rows).to(like)


def _seed(data: bytes) -> int:
    """63 bits, as `manual_seed` takes without wrapping."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
