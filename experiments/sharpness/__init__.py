"""Does sharpness-aware training make a segmentation network more robust? See docs/experiments/sharpness.md."""
