"""How steps use Ray: connecting, the resources there are, and bounded streams of tasks."""
