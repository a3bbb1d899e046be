"""Are fewer steps better? Overfit one picture or window, and sample it in 1 to 1000 steps.

A model of a single target has one answer at every noise level: however many steps the sampler
takes, it must end there. Reports how far off samples of ddpm are, by number of steps. Network and
noise are those of the settings; there is no condition.
"""
