"""Latents on disk, their statistics, and the whitening between disk and network."""
