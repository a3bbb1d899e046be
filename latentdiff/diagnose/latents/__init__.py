"""How many of the codec's dimensions carry sound?

`diagnose latents RUN`, or a folder of latents in its place, or --latents DIR without a run. For
each principal direction: variance, bits, autocorrelation and normality, of the posterior means and
of draws from the posterior, and how the noise of these draws changes the loss.
"""
