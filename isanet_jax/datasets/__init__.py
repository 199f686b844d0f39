"""The layouts in which raw scans are found, a file each."""
