"""Soft-tissue sarcoma, NIfTI copy of the IBSI."""

from isanet_jax.datasets.layout import (
    PET_CT,
    Dataset,
    Found,
    Scan,
    existing_folder,
    with_own_ids,
)
from isanet_jax.errors import ConfigError, DataError

_FILES = {"ct": "CT_image", "pet": "PET_image", "mr_t1": "MR_T1_image"}


def read_sts(source, images=PET_CT) -> list[Scan]:
    """Soft-tissue sarcoma, NIfTI copy of the IBSI: `STS_001/{CT_image,PET_image,CT_mask}.nii.gz`.

    The mask on the CT's grid is the label. 34 of the patients have an MRI, `mr_t1`, in the CT's
    frame.

    Args:
        source: the folder.
        images: names of the images to take.

    Raises:
        ConfigError: an image that the cohort does not have.
        DataError: no such folder, or none of its layout.
    """
    if unknown := [name for name in images if name not in _FILES]:
        raise ConfigError(
            f"this cohort has no image {unknown[0]!r}; choose from {', '.join(_FILES)}"
        )
    source = existing_folder(
        source,
        "the IBSI copy of the STS cohort (doi 10.7937/K9/TCIA.2015."
        "7GO2GSKS; github.com/theibsi/data_sets, ibsi_validation/nifti)",
    )
    folders = sorted(p for p in source.iterdir() if p.is_dir() and p.name.startswith("STS_"))
    if not folders:
        raise DataError(
            "no folders named STS_*", file=source, wanted="STS_001/CT_image.nii.gz and so on"
        )
    scans = []
    for folder in folders:
        paths = {name: folder / f"{_FILES[name]}.nii.gz" for name in images}
        scans.append(Scan(folder.name, paths, folder / "CT_mask.nii.gz", folder.name))
    return with_own_ids(scans)


DATASET = Dataset(
    "sts",
    "soft-tissue sarcoma, NIfTI copy of the IBSI (STS_001/...)",
    lambda source: source.is_dir() and any(source.glob("STS_*/CT_image.nii.gz")),
    lambda source, options: Found(read_sts(source, options.images)),
)
