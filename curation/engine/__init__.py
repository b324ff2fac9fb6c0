"""How steps meet Ray: connecting, what there is to run on, and bounded streams of tasks."""
