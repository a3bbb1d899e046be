"""How much noise on its latents the decoder tolerates."""
