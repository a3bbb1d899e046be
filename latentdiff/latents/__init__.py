"""The latent store on disk, its statistics, and the whitening between disk and network."""
