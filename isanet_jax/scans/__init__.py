"""Stage 1: raw scans. Volumes with their geometry, and the layouts in which they are found."""
