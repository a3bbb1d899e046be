"""Unsound on purpose: what the notebook this project began with did, for seeing it again."""
