"""The files of a prediction: all of a case appear together, or none."""

import contextlib

from isanet_jax.errors import ConfigError
from isanet_jax.files import check_new, replace_when_done
from isanet_jax.nifti import NIFTI_SUFFIXES, write_volume
from isanet_jax.prediction.formats import FORMATS
from isanet_jax.volume import Volume

MAPS = ("probability", "uncertainty")


def write_outputs(prediction, paths, *, keep_identity=False, overwrite=False, before=None) -> None:
    """Writes a prediction's files, all of them or none.

    Args:
        prediction: see `isanet_jax.prediction.result.Prediction`.
        paths: format of the mask (`FORMATS`) or map (`MAPS`) -> path.
        keep_identity: copy the patient's name, IDs and dates from the CT into DICOM.
        overwrite: replace existing files.
        before: called when all are written under other names, before they get theirs; or None.

    Raises:
        ConfigError: no such format.
        DataError: a file that exists or cannot be written; a CT that DICOM cannot refer to.
    """
    if unknown := set(paths) - {*FORMATS, *MAPS}:
        raise ConfigError(f"format {unknown.pop()!r}; choose from {', '.join((*FORMATS, *MAPS))}")
    for kind in set(FORMATS) & set(paths):
        if FORMATS[kind].check:
            FORMATS[kind].check(prediction.images)
    for path in paths.values():
        check_new(path, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        # In the end, in the opposite order, all get their names: --skip-existing takes the masks as
        # the sign that a case is finished.
        masks_first = sorted(paths, key=lambda kind: kind not in FORMATS)
        partial = {}
        for kind in masks_first:
            suffix = next((s for s in NIFTI_SUFFIXES if paths[kind].name.endswith(s)), "")
            partial[kind] = stack.enter_context(replace_when_done(paths[kind], suffix))
        for kind in paths:
            if kind in FORMATS:
                FORMATS[kind].write(partial[kind], prediction, keep_identity)
            else:
                _write_map(partial[kind], prediction, getattr(prediction, kind))
        if before is not None:
            before()


def _write_map(path, prediction, data):
    volume = prediction.volume
    write_volume(path, Volume(data, volume.affine, volume.header), overwrite=True)
