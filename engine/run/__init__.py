"""One run's folder and life: its files, its checkpoints, how it is stopped and continued, how it ends."""
