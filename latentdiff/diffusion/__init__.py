"""Noise, denoiser, loss, baselines and samplers, all on one axis: log-SNR."""
