"""How many of the codec's dimensions carry sound, and what noise the others are.

`diagnose latents RUN`, or a folder of latents in its place, or --latents DIR without a run. For
each principal direction: variance, bits, autocorrelation, normality; the same for draws from the
encoder's posterior, and what drawing does to a loss.
"""
