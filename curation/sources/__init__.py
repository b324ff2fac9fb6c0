"""Where frames come from: folder trees, public pools, lineage, and what changed in them."""
