"""The notebook this project began with: its entries explained, and rerun on your latents."""
