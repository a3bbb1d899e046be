"""The notebook this project began with: its entries told, and run again on the latents at hand."""
