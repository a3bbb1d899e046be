"""Whether a model follows its condition."""
