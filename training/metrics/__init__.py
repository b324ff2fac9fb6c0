"""IoU and its relatives, confidence intervals, and NormDEL."""
