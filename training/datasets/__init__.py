"""Segmentation data sets: their folders, masks and splits, prepared as arrays."""
