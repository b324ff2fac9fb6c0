"""The commands `evaluate` and `benchmark`."""
