"""DICOM SEG: a segment for each class, which references the first image."""

from isanet_jax.prediction.formats.format import Format, needs_dicom


def write(path, prediction, keep_identity) -> None:
    """See `isanet_jax.dicom.write.write_segmentation`."""
    from isanet_jax.dicom.write import write_segmentation  # pydicom, where it is needed

    write_segmentation(
        path, prediction.masks, prediction.shown("first", keep_identity), codes=prediction.codes,
        keep_identity=keep_identity, maker=prediction.maker_of("dicom-seg"),
    )  # fmt: skip


FORMATS = {"dicom-seg": Format(".seg.dcm", write, needs_dicom)}
