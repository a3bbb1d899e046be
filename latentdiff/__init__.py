"""Turn a folder of recordings into a music generator: latent diffusion on RAVE."""

__version__ = "0.1.0"
