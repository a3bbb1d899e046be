"""What samples can be conditioned on: a mel spectrogram, a label, or both."""
