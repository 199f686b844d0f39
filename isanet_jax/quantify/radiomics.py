"""Radiomics by the package mirp, which keeps to the IBSI's definitions."""

import tempfile
from pathlib import Path

import numpy as np

from isanet_jax.cases.grid import resample
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume

BIN_SUV = 0.25  # width of the bins that textures are counted in
_ABOUT = ("sample_name", "image_", "roi_name", "roi_mask", "mask_", "ibsi_")


def features(mask: Volume, pet: Volume, *, bin_suv: float = BIN_SUV) -> dict[str, float]:
    """Mirp's features of all of a mask on the PET's own grid, in three dimensions.

    Args:
        mask: bool, on any grid.
        pet: SUV.
        bin_suv: width of the bins, from 0 on.

    Returns:
        the features by mirp's names, which `docs/reference` of mirp explains; of an empty mask
        nothing.

    Raises:
        ConfigError: the package is not installed.
        DataError: mirp cannot compute them.
    """
    try:
        import mirp
    except ImportError as error:
        raise ConfigError(
            "--features needs the package mirp: pip install 'isanet_jax[features]'"
        ) from error
    data = resample(
        Volume(mask.data.astype(np.uint8), mask.affine), pet.data.shape, pet.affine, order=0, fill=0
    )
    if not data.any():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.nii.gz" for name in ("image", "mask")}
        write_volume(paths["image"], Volume(pet.data, pet.affine))
        write_volume(paths["mask"], Volume(data.astype(np.uint8), pet.affine))
        try:
            (table,) = mirp.extract_features(
                image=str(paths["image"]),
                mask=str(paths["mask"]),
                image_modality="pet",
                base_discretisation_method="fixed_bin_size",
                base_discretisation_bin_width=bin_suv,
                resegmentation_intensity_range=[0.0, np.nan],
            )
        except Exception as error:  # whatever it raises on masks that are too small, say
            raise DataError(f"mirp cannot compute features ({error})") from error
    row = table.iloc[0]
    return {
        name: float(row[name])
        for name in table.columns
        if not name.startswith(_ABOUT) and isinstance(row[name], (int, float, np.number))
    }
