"""How much noise on the latents does the decoder tolerate?

Decodes held-out clips with more and more noise on their latents, in the directions that a diffusion
model sees and in the others; and for comparison white noise, zeros, shuffled frames and mixtures.
Reports level and spectral distance, and writes audio. `train-diffusion` compares the noise that its
model leaves with the tolerance found here.
"""
