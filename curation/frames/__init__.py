"""The folders frames/ and rejected/ of a run: one row per frame, and its bytes as RGB."""
