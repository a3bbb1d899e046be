"""Noise schedules, denoiser, loss, baselines and samplers, all on the log-SNR axis."""
