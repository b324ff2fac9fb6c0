"""The folder subsets/ of a run: which frames are kept, which are dropped, and why."""
