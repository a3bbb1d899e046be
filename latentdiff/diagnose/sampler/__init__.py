"""Do the samplers work? Tests each with a perfect model.

On latents whose best denoiser and exact probability flow are known, with 1 to 1000 steps of the
configured schedule: errors of mean, covariance and end points, orders of convergence, conversion of
the network's output, and the cost of starting from pure noise. Exit code 1 if a sampler misses its
order or an output is converted wrongly.
"""
