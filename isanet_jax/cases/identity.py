"""By what a case is known, whatever it is called: digests of its content and of its patient."""

import hashlib

import nibabel
import numpy as np

from isanet_jax.volume import Volume

# Voxel sizes in tenths of a mm. Those of scans are multiples of round numbers, which rounding
# errors would tell apart at a limit of 0.5.
_TENTHS, _LIMIT = 10, 0.37


def content_digest(volume: Volume) -> str:
    """SHA-256 of a scan's voxels, their size and orientation.

    It is the same for a copy under another name, in another compression or order of axes, and for a
    DICOM series and the NIfTI that `isanet prepare` makes of it. The place in space is not part of
    it: it is rounded where a file is converted, and tells no two patients apart.

    Args:
        volume: the first image of a case, as it is read.
    """
    order = nibabel.orientations.io_orientation(volume.affine)
    data = nibabel.orientations.apply_orientation(volume.data, order)
    spacing_mm = volume.spacing_mm[np.argsort(order[:, 0])]
    tenths = np.floor(_TENTHS * spacing_mm + _LIMIT).astype(int).tolist()
    digest = hashlib.sha256(f"{data.shape} {tenths}".encode())
    for plane in data:  # of a whole body, a float32 copy would take a GiB
        digest.update(np.ascontiguousarray(plane, dtype="<f4") + np.float32(0))  # no -0.0
    return digest.hexdigest()


def patient_digest(patient: str) -> str:
    """SHA-256 of a patient's ID.

    It keeps an ID out of a file, and not from somebody who can guess it.
    """
    return hashlib.sha256(f"patient {patient}".encode()).hexdigest()


def arrays_digest(arrays) -> str:
    """SHA-256 of names, types, shapes and voxels of arrays, in their order.

    Args:
        arrays: name -> array.
    """
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def identity_of(entry: dict) -> dict[str, str]:
    """By what a case of a manifest is known: `patient`, `content` and `file`, a digest each.

    Folders that were prepared before version 0.2.0 have no `content`; `file` is the digest of the
    first image's file, by which cases were known until then.
    """
    known = {
        "patient": patient_digest(str(entry["patient"])),
        "file": str(next(iter(entry["sources"].values()))),
    }
    return known | ({"content": entry["content"]} if entry.get("content") else {})
