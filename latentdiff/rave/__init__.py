"""Everything that touches acids-rave, gin, pytorch_lightning, cached_conv or udls lives here."""
