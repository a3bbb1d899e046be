"""Whether one example can be learned by heart, in any number of steps."""
