"""A run's folder and checkpoints; how it stops, continues and ends."""
