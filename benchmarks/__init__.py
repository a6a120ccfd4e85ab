"""Benchmarks of speed: times as ratios to a baseline in the same run."""
