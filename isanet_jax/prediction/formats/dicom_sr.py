"""DICOM SR: the lesions' measurements, which reference the SEG's segments and the PET."""

from isanet_jax.prediction.formats.format import Format, needs_dicom


def write(path, prediction, keep_identity) -> None:
    """See `isanet_jax.dicom.report.write_measurements`."""
    from isanet_jax.dicom.report import write_measurements  # pydicom, where it is needed

    write_measurements(
        path,
        prediction.lesions_of_class,
        prediction.shown("first", keep_identity),
        segmentation=prediction.uids["dicom-seg"],
        pet_slices=prediction.shown("pet", keep_identity),
        codes=prediction.codes,
        keep_identity=keep_identity,
        maker=prediction.maker_of("dicom-sr"),
    )


FORMATS = {"dicom-sr": Format(".sr.dcm", write, needs_dicom)}
