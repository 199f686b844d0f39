"""Stage 6: masks from a trained run."""
