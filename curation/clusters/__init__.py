"""The folder clusters/ of a run: spherical k-means."""
