"""Stage 7: metrics, baselines, pictures and reports."""
