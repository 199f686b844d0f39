"""The files of a prediction: all of a case appear together, or none."""

import contextlib

from isanet_jax.errors import ConfigError, DataError
from isanet_jax.files import check_new, replace_when_done
from isanet_jax.volume import NIFTI_SUFFIXES, Volume, write_volume

# Format of a mask -> its file's ending.
SUFFIXES = {"nifti": ".nii.gz", "dicom-seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
DICOM = ("dicom-seg", "rtstruct")  # of them, those that reference an image
MAPS = ("probability", "uncertainty")


def write_outputs(prediction, paths, *, keep_identity=False, overwrite=False, before=None) -> None:
    """Writes a prediction's files, all of them or none.

    Args:
        prediction: see `isanet_jax.prediction.result.Prediction`.
        paths: format of the mask (`SUFFIXES`) or map (`MAPS`) -> path.
        keep_identity: copy the patient's name, IDs and dates from the CT into DICOM.
        overwrite: replace existing files.
        before: called when all are written under other names, before they get theirs; or None.

    Raises:
        ConfigError: no such format.
        DataError: a file that exists or cannot be written; a CT that DICOM cannot refer to.
    """
    if unknown := set(paths) - {*SUFFIXES, *MAPS}:
        raise ConfigError(f"format {unknown.pop()!r}; choose from {', '.join((*SUFFIXES, *MAPS))}")
    for path in paths.values():
        check_new(path, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        # In the end, in the opposite order, all get their names: --skip-existing takes the masks as
        # the sign that a case is finished.
        masks_first = sorted(paths, key=lambda kind: kind not in SUFFIXES)
        partial = {}
        for kind in masks_first:
            suffix = next((s for s in NIFTI_SUFFIXES if paths[kind].name.endswith(s)), "")
            partial[kind] = stack.enter_context(replace_when_done(paths[kind], suffix))
        if "nifti" in paths:
            _write_nifti(partial["nifti"], prediction, prediction.labels)
        for kind in set(MAPS) & set(paths):
            _write_nifti(partial[kind], prediction, getattr(prediction, kind))
        _write_dicom(partial, prediction, keep_identity)
        if before is not None:
            before()


def _write_nifti(path, prediction, data):
    volume = prediction.volume
    write_volume(path, Volume(data, volume.affine, volume.header), overwrite=True)


def _write_dicom(paths, prediction, keep_identity):
    """Writes the DICOM masks among the paths."""
    if set(DICOM).isdisjoint(paths):
        return
    from isanet_jax.dicom.write import write_segmentation, write_structures

    slices = prediction.images.slices
    if slices is None:
        raise DataError(
            "its first image is no DICOM",
            case=prediction.images.scan.case,
            wanted="a DICOM image, which the output references",
            action="Give its DICOM folder, or write NIfTI",
        )
    masks = prediction.masks
    if "dicom-seg" in paths:
        codes, path = prediction.codes, paths["dicom-seg"]
        write_segmentation(path, masks, slices, codes=codes, keep_identity=keep_identity)
    if "rtstruct" in paths:
        affine = prediction.affine
        write_structures(paths["rtstruct"], masks, affine, slices, keep_identity=keep_identity)
