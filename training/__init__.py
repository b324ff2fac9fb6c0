"""Subset in, encoder and scores out: pre-training and evaluation (needs `curation`)."""
