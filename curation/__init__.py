"""Frames in, subset out: ingest, embed, cluster, score, select and export endoscopy frames."""
