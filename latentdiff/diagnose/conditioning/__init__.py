"""Does the model follow its condition? Ignored, weak or followed.

Compares losses with right and wrong conditions; samples with the same noise and other conditions,
and with the same condition and other noise: how different they are, as latents and as sound; and
what guidance changes.
"""
