"""Sound of our own making: the band that `quickstart` plays, and scenes of everything else.

A seed determines everything. Standard library, numpy and scipy only.
"""

from latentdiff.synth.band import FASTEST, SLOWEST, STYLES, TEMPI, compose, tempo
from latentdiff.synth.scenes import scene

__all__ = ["FASTEST", "SLOWEST", "STYLES", "TEMPI", "compose", "scene", "tempo"]
