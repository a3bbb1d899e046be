"""Why a training went wrong: causes, most likely first, each with its evidence.

`diagnose training RUN`. Reads the metrics, and measures the model on the latents and conditions
that it was trained on: losses by noise level, overfitting, gradients, pairing, magnitudes in the
network, and a few samples. For a healthy run it reports that nothing was found.
"""
