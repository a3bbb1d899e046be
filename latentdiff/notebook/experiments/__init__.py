"""Deliberate mistakes: what the notebook this project began with did, to be reproduced."""
