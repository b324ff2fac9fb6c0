"""The folders frames/ and rejected/ of a run: one row a frame, and its bytes as RGB."""
