"""NIfTI: a value for each class, on the first image's grid."""

from isanet_jax.nifti import write_volume
from isanet_jax.prediction.formats.format import Format
from isanet_jax.volume import Volume


def write(path, prediction, keep_identity) -> None:
    """The values of `Prediction.labels`; NIfTI has no place for an identity."""
    volume = prediction.volume
    labels = Volume(prediction.labels, volume.affine, volume.header)
    write_volume(path, labels, overwrite=True)


FORMATS = {"nifti": Format(".nii.gz", write)}
