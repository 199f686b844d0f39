"""Stage 4: the network, as pure functions and Flax NNX modules."""
