"""Denoising networks: [B, C, T] of any T in, the same shape out."""
