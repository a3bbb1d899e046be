"""What went wrong in training? Likely causes, with evidence.

`diagnose training RUN`. Reads the metrics, and measures the model on the latents and conditions
that it was trained on: losses by noise level, overfitting, gradients, pairing of conditions,
activations, and a few samples. For a healthy run it reports that it found nothing.
"""
