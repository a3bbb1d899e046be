"""Which noise levels does the schedule cover?

Terminal log-SNR and gain with their limits, and the losses of a model that has learned nothing, L1
and MSE, for eps, v, x0 and flow: a loss only means something beside these. With --run also where
the encoder's own noise and the decoder's noise tolerance lie on the log-SNR axis.
"""
