"""DICOM: series, images, studies and regions read; masks written."""
