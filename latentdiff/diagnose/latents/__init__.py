"""What the latents of a store are like."""
