"""What a PET/CT reader measures: lesions, patients, reference regions, agreement."""
