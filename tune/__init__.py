"""Threshold searches over curation and training with Ray Tune (needs both)."""
