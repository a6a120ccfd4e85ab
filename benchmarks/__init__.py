"""Speed, as ratios to a baseline in the same run; imported by nothing."""
