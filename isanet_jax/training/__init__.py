"""Stage 5: loss, schedule, step, checkpoints and the training loop."""
