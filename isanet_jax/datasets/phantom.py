"""Seeded synthetic PET/CT with a known truth: body, bone, air, hot organs, and tumours.

Made so that a threshold on SUV cannot win: brain, bladder and paired glands are as hot as the
tumours, and some tumours are fainter than them. What tells a tumour is PET and CT together (it
takes up tracer and is denser than muscle), which is what the network has to learn.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from isanet_jax.files import write_csv
from isanet_jax.nifti import write_volume
from isanet_jax.volume import Volume

FIELD_MM = 192.0
_CT_SHAPE = (80, 80, 60)  # x, y, z
_PET_SHAPE = (48, 48, 60)
_SCANNER_FWHM_MM = 6.0
NODAL_CLASSES = {"gtvp": (1,), "gtvn": (2,)}
_MOST_NODES = 3
_FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))


def make_phantom(generator: np.random.Generator) -> tuple[Volume, Volume, Volume]:
    """Draws one patient.

    Args:
        generator: source of everything random.

    Returns:
        ct: int16 HU; pet: float32 SUV on its own, coarser grid; label: uint8 on the CT's grid.
    """
    return _scan(generator, _tumours)


def make_nodal_phantom(generator: np.random.Generator) -> tuple[Volume, Volume, Volume]:
    """Draws one patient as of HECKTOR 2022: a tumour near the midline, and lymph nodes beside it.

    A quarter of the patients have no nodes. Where a lump lies tells its class.

    Args:
        generator: source of everything random.

    Returns:
        as of `make_phantom`; label: see `NODAL_CLASSES`.
    """
    return _scan(generator, _primary_and_nodes)


def _scan(generator, tumours):
    """(ct, pet, label) of a body with what `tumours` puts into it."""
    affine = _affine(_CT_SHAPE)
    x, y, z = _world(_CT_SHAPE, affine)
    hu, activity, body = _body(generator, x, y, z)
    _organs(generator, hu, activity, (x, y, z))
    label = tumours(generator, hu, activity, body, (x, y, z))
    hu = ndimage.gaussian_filter(hu, 0.4) + generator.normal(0, 15, _CT_SHAPE)
    ct = Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine)
    pet = scan_pet(generator, activity, affine, _PET_SHAPE, _affine(_PET_SHAPE))
    return ct, pet, Volume(label.astype(np.uint8), affine)


def write_phantoms(output, *, cases: int, seed: int, make: Callable = make_phantom) -> Path:
    """Writes phantoms as NIfTI with a table that `read_table` reads; existing ones are kept.

    Each phantom depends on `seed` and its own number only.

    Args:
        output: folder.
        cases: how many.
        seed: of all.
        make: generator -> (ct, pet, label).

    Returns:
        The table's path, `cases.csv` in `output`.

    Raises:
        DataError: a file cannot be written.
    """
    output = Path(output)
    rows = []
    for number in range(cases):
        case = f"phantom_{number:03d}"
        names = {kind: f"{case}/{kind}.nii.gz" for kind in ("ct", "pet", "label")}
        if not all((output / name).is_file() for name in names.values()):
            volumes = make(np.random.default_rng([seed, number]))
            for name, volume in zip(names.values(), volumes, strict=True):
                write_volume(output / name, volume, overwrite=True)
        rows.append({"case": case, **names})
    table = output / "cases.csv"
    write_csv(table, rows, ("case", "ct", "pet", "label"))
    return table


def _affine(shape):
    """Voxel index to RAS+ mm of a field centred on 0; stored LPS-wise, as scanners do."""
    x, y, z = FIELD_MM / np.array(shape)
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = FIELD_MM / 2 - x / 2, FIELD_MM / 2 - y / 2, z / 2 - FIELD_MM / 2
    return affine


def _world(shape, affine):
    indices = np.ogrid[tuple(slice(n) for n in shape)]
    return [affine[i, i] * index + affine[i, 3] for i, index in enumerate(indices)]


def ellipsoid(world, centre, radii) -> np.ndarray:
    """Normalised distance from an ellipsoid's centre: below 1 inside it.

    Args:
        world: coordinates x, y and z, mm, which are broadcast.
        centre, radii: (3,) mm.
    """
    return np.sqrt(sum(((w - c) / r) ** 2 for w, c, r in zip(world, centre, radii, strict=True)))


def _body(generator, x, y, z):
    """Muscle, fat, spine and airway; returns HU, activity (SUV) and the muscle's mask."""
    width, depth = generator.uniform(66, 80), generator.uniform(54, 66)
    taper = 1 - 0.1 * np.cos(z / 40 + generator.uniform(0, 6))
    radius = np.sqrt((x / (width * taper)) ** 2 + (y / (depth * taper)) ** 2)
    hu = np.full(_CT_SHAPE, -1000.0)
    activity = np.zeros(_CT_SHAPE)
    muscle = radius < 0.87
    spine = np.sqrt(x**2 + (y + 0.6 * depth) ** 2) + 0 * z < 13
    airway = np.sqrt(x**2 + (y - 0.35 * depth) ** 2) + 0 * z < 9
    for mask, density, uptake in (
        (radius < 1, -90, 0.3),
        (muscle, 45, 0.8),
        (spine, 450, 1.3),
        (airway, -950, 0.05),
    ):
        hu[mask], activity[mask] = density, uptake
    return hu, activity, muscle & ~spine & ~airway


def _organs(generator, hu, activity, world):
    """Hot organs that are not tumour: brain, bladder, and a pair of glands."""
    brain = ellipsoid(world, (0, 0, 96), generator.uniform((42, 42, 24), (54, 50, 36)))
    bladder = ellipsoid(world, (0, 12, -92), generator.uniform((20, 18, 18), (30, 26, 30)))
    for distance, density, low, high in ((brain, 35, 5, 9), (bladder, 5, 6, 14)):
        hu[distance < 1], activity[distance < 1] = density, generator.uniform(low, high)
    height, offset = generator.uniform(-20, 35), generator.uniform(26, 36)
    radii, uptake = generator.uniform(7, 11, 3), generator.uniform(3, 6)
    for side in (-1, 1):
        gland = ellipsoid(world, (side * offset, 5, height), radii) < 1
        hu[gland], activity[gland] = 40, uptake


def _tumours(generator, hu, activity, body, world):
    """One or two lumps of dense, active tissue inside the muscle; returns their mask."""
    label = np.zeros(_CT_SHAPE, bool)
    for _ in range(generator.integers(1, 3)):
        box = ((-45, -30, -48), (45, 30, 40))
        label |= _lump(generator, hu, activity, body, world, box=box, radius_mm=(15, 30))
    return label


def _primary_and_nodes(generator, hu, activity, body, world):
    """A lump near the midline, and smaller ones at the sides; returns 1 and 2 where they are."""
    label = np.zeros(_CT_SHAPE, np.uint8)
    box = ((-14, -25, -40), (14, 25, 30))
    primary = _lump(generator, hu, activity, body, world, box=box, radius_mm=(15, 26))
    label[primary] = 1
    for _ in range(generator.integers(0, _MOST_NODES + 1)):
        side = generator.choice((-1, 1))
        box = sorted((side * 34, side * 52))
        box = ((box[0], -30, -48), (box[1], 20, 40))
        place = body & (label == 0)
        node = _lump(generator, hu, activity, place, world, box=box, radius_mm=(7, 13))
        label[node] = 2
    return label


def _lump(generator, hu, activity, body, world, *, box, radius_mm):
    """Puts a lump of dense, active tissue into the muscle; returns its mask, which may be empty."""
    centre = generator.uniform(*box)
    radii = generator.uniform(*radius_mm) * generator.uniform(0.75, 1.25, 3)
    bumps = ndimage.gaussian_filter(generator.normal(size=_CT_SHAPE), 4)
    bumps *= 0.12 / bumps.std()
    tumour = (ellipsoid(world, centre, radii) + bumps < 1) & body
    parts, count = ndimage.label(tumour)
    if count == 0:
        return tumour
    tumour = parts == 1 + np.argmax(ndimage.sum_labels(tumour, parts, range(1, count + 1)))
    faint = generator.random() < 0.3
    uptake = generator.uniform(1.8, 2.6) if faint else generator.uniform(3, 9)
    hu[tumour] = generator.uniform(80, 100)
    activity[tumour] = uptake * (1 + bumps[tumour])
    return tumour


def scan_pet(generator, activity, affine, shape, pet_affine) -> Volume:
    """The PET of an activity: blurred by the scanner's width, on the PET's grid, with count noise.

    Args:
        generator: source of the noise.
        activity: SUV on a fine grid.
        affine: (4, 4) of it.
        shape, pet_affine: of the PET's grid.
    """
    sigma = _SCANNER_FWHM_MM * _FWHM_TO_SIGMA / abs(np.diag(affine)[:3])
    to_ct = np.linalg.inv(affine) @ pet_affine
    blurred = ndimage.gaussian_filter(activity, sigma)
    pet = ndimage.affine_transform(
        blurred, to_ct[:3, :3], to_ct[:3, 3], shape, order=1, mode="nearest"
    )
    # Reconstructed PET noise grows with the root of the activity and is correlated.
    noise = ndimage.gaussian_filter(generator.normal(size=shape), 0.7)
    pet += 0.25 * np.sqrt(pet) * noise / noise.std()
    return Volume(np.clip(pet, 0, None).astype(np.float32), pet_affine)
