"""Noise for decoders that shape some: a function of the latent frame, not of time or chance.

Shapes: B batch, D latent dimensions, T latent frames.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentdiff.errors import UserError


class FrameNoise(TorchDispatchMode):
    """Within it, `rand_like` of [B, T * m, ...] draws frame t from a generator seeded by z[..., t].

    RAVE's noise synthesiser asks for m noise frames a latent frame, and drawn afresh they would
    differ from call to call, and between a file in chunks and the file in one piece.
    """

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        frames = z.detach().cpu().transpose(1, 2).contiguous().numpy()  # [B, T, D]
        self._seeds = [[_seed(frame.tobytes()) for frame in row] for row in frames]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.rand_like.default:
            return self._draw(args[0])
        return func(*args, **(kwargs or {}))

    def _draw(self, like: Tensor) -> Tensor:
        count = len(self._seeds[0])
        if like.shape[1] % count:
            raise UserError(
                "this RAVE is not supported",
                why=f"its decoder shapes {like.shape[1]} frames of noise for {count} latents, so "
                "no whole number of them belongs to each",
                do_this="use a model whose noise frames are shorter than its latent frames.",
            )
        shape = (like.shape[1] // count, *like.shape[2:])
        generator = torch.Generator()
        rows = [
            torch.cat([torch.rand(shape, generator=generator.manual_seed(seed)) for seed in row])
            for row in self._seeds
        ]
        return torch.stack(rows).to(like)


def _seed(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
