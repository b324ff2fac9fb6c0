"""The folder embeddings/ of a run: frames as unit vectors, and the search for the nearest of them."""
