"""Names of the sets of clips that an evaluation compares; `evaluation.controls` names the fakes."""

REFERENCE = "training"
"""Every other clip of the training files; all sets are compared with it."""
OTHER = "training, other clips"
"""The clips in between: real sound that is not in the reference. Controls are made of them."""
HELD_OUT = "held-out files"
KEPT = "training, kept directions"
"""OTHER, reduced to the latent directions that the diffusion model sees. Where it scores below
OTHER, latents.keep costs sound quality, whatever the model does."""
WHITE = "white noise"
SAMPLES = "samples"
FOLLOWING = "samples after held-out"
"""Samples that follow the held-out clips, if the model follows spectrograms."""

FIRST = (SAMPLES, FOLLOWING, HELD_OUT, OTHER, KEPT)
"""The order of the table: these, then the controls, then WHITE."""
