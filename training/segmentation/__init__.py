"""An encoder as a segmentation model: fine-tuning, probes, and outlines drawn on images."""
