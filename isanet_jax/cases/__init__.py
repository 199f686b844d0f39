"""Stage 2: cases. Scans resampled to one grid per case, checked, and stored for fast reading."""
