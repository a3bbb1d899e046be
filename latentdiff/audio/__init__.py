"""Audio files: find them, read them as blocks of samples, write them."""

from latentdiff.audio.settings import DataConfig

__all__ = ["DataConfig"]
