"""What a noise schedule does: where it ends, its gain, and losses that mean nothing.

Terminal log-SNR and gain with their limits, and baseline losses in L1 and MSE for eps, v, x0 and
flow: what a model that has learned nothing scores. With --run also where the encoder's own
noise and the decoder's noise tolerance lie on the log-SNR axis.
"""
