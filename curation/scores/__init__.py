"""The folder scores/ of a run: how similar each frame is to those that come before it."""
