"""Which noise levels a schedule visits, and what that does to losses."""
