"""DICOM RTSTRUCT: contours for each class, which reference the first image."""

from isanet_jax.prediction.formats.format import Format, needs_dicom


def write(path, prediction, keep_identity) -> None:
    """See `isanet_jax.dicom.write.write_structures`."""
    from isanet_jax.dicom.write import write_structures  # pydicom, where it is needed

    write_structures(
        path, prediction.masks, prediction.affine, prediction.shown("first", keep_identity),
        keep_identity=keep_identity,
        maker=prediction.maker_of("rtstruct"),
    )  # fmt: skip


FORMATS = {"rtstruct": Format(".rtstruct.dcm", write, needs_dicom)}
