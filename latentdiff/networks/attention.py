"""Attention along time, with rotary positions and limited to frames within `reach`.

Shapes: B batch, H heads, S size of a head, T frames, W network width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

SLOWEST = 1024.0
"""Frames in which the slowest rotary pair turns by one radian."""


def apply_rope(x: Tensor) -> Tensor:
    """[..., T, S] rotated by the position of its frame (Su et al. 2021, arXiv 2104.09864, eq. 34).

    The product of two rotated vectors depends only on the distance of their frames. Pairs are
    halves of S, not neighbours as in the paper: the same up to the order of the channels.
    """
    frames, half = x.shape[-2], x.shape[-1] // 2
    pace = SLOWEST ** (-torch.arange(half, device=x.device) / half)
    # In float32 even for bfloat16 x: an angle of hundreds of radians would lose its fraction.
    angle = torch.arange(frames, device=x.device)[:, None] * pace
    sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    """Frames attend to frames at most `reach` away (None: to all): [B, T, W] -> the same."""

    def __init__(self, width: int, heads: int, reach: int | None) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.proj_in = nn.Linear(width, 3 * width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        qkv = self.proj_in(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = apply_rope(qkv[:2])
        heads = attend(q, k, qkv[2], self.reach)
        out: Tensor = self.proj_out(heads.transpose(1, 2).flatten(2))
        return out


class Attending(nn.Module):
    """Attention on a residual connection, to insert between layers: [B, T, W] -> the same."""

    def __init__(self, width: int, heads: int, reach: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reach)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        out: Tensor = x + self.attention(self.norm(x))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, reach: int | None) -> Tensor:
    """[B, H, T, S] each -> [B, H, T, S]; for long T, memory and time grow with T, not T^2."""
    frames = q.shape[-2]
    if reach is None or frames <= reach + 1:
        return scaled_dot_product_attention(q, k, v)
    at = torch.arange(frames, device=q.device)
    # Pieces of 3 `reach` keys only save time once there are more frames than that.
    if frames <= 4 * reach:
        return scaled_dot_product_attention(q, k, v, attn_mask=_near(at, at, reach))
    return _attend_in_pieces(q, k, v, reach)


def _attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, reach: int) -> Tensor:
    """`reach` queries at a time, with the 3 `reach` keys that they may attend to."""
    frames = q.shape[-2]
    rest = -frames % reach
    pieces = pad(q, (0, 0, 0, rest)).unflatten(-2, (-1, reach))
    k, v = (
        pad(x, (0, 0, reach, reach + rest)).unfold(-2, 3 * reach, reach).transpose(-1, -2)
        for x in (k, v)
    )
    queries = torch.arange(frames + rest, device=q.device).view(-1, reach)
    keys = queries[:, :1] + torch.arange(-reach, 2 * reach, device=q.device)
    # Padding past the end attends to itself: a softmax over no key at all would be NaN.
    real = ((keys >= 0) & (keys < frames))[:, None] | (queries[..., None] == keys[:, None])
    near = _near(queries, keys, reach) & real
    out = scaled_dot_product_attention(pieces, k, v, attn_mask=near)
    return out.flatten(-3, -2)[..., :frames, :]


def _near(queries: Tensor, keys: Tensor, reach: int) -> Tensor:
    """Frame numbers [..., Q] and [..., K] -> [..., Q, K]: whether at most `reach` apart."""
    return (queries[..., :, None] - keys[..., None, :]).abs() <= reach
