"""Questions about robustness, as commands that anyone can repeat."""
