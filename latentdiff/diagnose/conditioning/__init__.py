"""Does the model follow its condition?

Compares losses with right and wrong conditions; samples from the same noise under different
conditions, and under the same condition from different noise, as latents and as audio; and what
guidance changes. The verdict is ignored, weak or followed.
"""
