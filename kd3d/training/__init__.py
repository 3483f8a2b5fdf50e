"""Targets, task losses, the training loop and its checkpoints."""
