"""A DICOM node: studies come in by C-STORE, and their segmentations go out."""
