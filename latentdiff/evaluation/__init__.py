"""Read-only measurements of sound and of models."""
