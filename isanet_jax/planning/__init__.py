"""What a training step and a prediction need, before they run; on machines that are not there."""
