"""Training: from options to a Trainer, one step, the loop around it, what a checkpoint keeps."""
