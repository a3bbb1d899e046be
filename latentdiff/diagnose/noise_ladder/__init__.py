"""How much noise on its latents the decoder tolerates, and how it decodes other latents.

Decodes held-out clips with more and more noise on their latents, in the directions that a diffusion
model sees and in the others; and for comparison white noise, zeros, shuffled frames and mixtures.
Level, spectral distance and sound of each. `train-diffusion` compares the noise that its model
leaves with the tolerance measured here.
"""
