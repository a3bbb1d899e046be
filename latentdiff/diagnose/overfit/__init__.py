"""Are fewer sampling steps better? Overfits one target.

A model of one picture or one window of latents has a single right answer at every noise level, so
its samples must end there in any number of steps. Reports the error of ddpm for 1 to 1000 steps.
Network and noise come from the settings; there is no condition.
"""
