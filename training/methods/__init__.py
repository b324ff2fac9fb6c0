"""Pre-training methods: what a model learns from a batch, one file per method."""
