"""What a run leaves on disk: its folder, checkpoints, log; and a model in one file."""
