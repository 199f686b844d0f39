"""Stage 3: from stored cases to the batches and images that a step consumes."""
