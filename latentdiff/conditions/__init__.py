"""What samples can be conditioned on: features such as a mel spectrogram, or a label."""
