"""Soft-tissue sarcoma, NIfTI copy of the IBSI."""

from isanet_jax.datasets.layout import Dataset, Found, Scan, existing_folder, with_own_ids
from isanet_jax.errors import DataError


def read_sts(source) -> list[Scan]:
    """Soft-tissue sarcoma, NIfTI copy of the IBSI: `STS_001/{CT_image,PET_image,CT_mask}.nii.gz`.

    The mask on the CT's grid is the label.

    Raises:
        DataError: no such folder, none of its layout, or a case that lacks a file.
    """
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
    scans = [
        Scan(f.name, f / "CT_image.nii.gz", f / "PET_image.nii.gz", f / "CT_mask.nii.gz", f.name)
        for f in folders
    ]
    return with_own_ids(scans)


DATASET = Dataset(
    "sts",
    "soft-tissue sarcoma, NIfTI copy of the IBSI (STS_001/...)",
    lambda source: source.is_dir() and any(source.glob("STS_*/CT_image.nii.gz")),
    lambda source, options: Found(read_sts(source)),
)
