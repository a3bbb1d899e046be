"""The trained model: what it is made of, loading and saving it, its data, and sampling from it."""
