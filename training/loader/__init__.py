"""A subset as batches of decoded frames, in an order fixed by the seed."""
