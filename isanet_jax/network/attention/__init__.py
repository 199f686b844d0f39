"""Attention modules, one per file: `Module(channels, config, *, rngs)`, output shaped as input."""
