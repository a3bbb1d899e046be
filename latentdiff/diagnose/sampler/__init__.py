"""Whether samplers reach the exact answer on problems where it is known."""
