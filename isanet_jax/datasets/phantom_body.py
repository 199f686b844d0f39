"""Seeded synthetic whole bodies in PET/CT with a known truth: organs, and lesions of two classes.

Bodies differ in size, and so do their fields. Brain, heart, kidneys and bladder are as hot as the
lesions. A lesion of soft tissue is denser than the muscle and fat around it, one of bone lies in
the skeleton: which class it is, the CT tells. A fifth of the patients have none.
"""

import numpy as np
from scipy import ndimage

from isanet_jax.datasets.phantom import ellipsoid, scan_pet
from isanet_jax.volume import Volume

SPACING_MM = 4.0
CLASSES = {"soft": (1,), "bone": (2,)}
_FIELD_MM = ((470, 520), (320, 370), (800, 920))  # x, y, z: least and most
_WITHOUT = 0.2  # of the patients
_MOST_LESIONS = 30
_LESION_ML = (0.2, 30.0)
_IN_BONE = 0.3  # of the lesions


def make_body(generator: np.random.Generator) -> tuple[Volume, Volume, Volume]:
    """Draws one patient, from the thighs to the head, arms down.

    Args:
        generator: source of everything random.

    Returns:
        ct: int16 HU; pet: float32 SUV; label: uint8, see `CLASSES`; all on one grid of 4 mm.
    """
    field = np.array([generator.uniform(*limits) for limits in _FIELD_MM])
    shape = tuple(int(n) for n in field // SPACING_MM)
    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * np.diag(affine)[:3]
    world = [
        affine[i, i] * index + affine[i, 3]
        for i, index in enumerate(np.ogrid[tuple(slice(n) for n in shape)])
    ]
    hu, activity = np.full(shape, -1000.0), np.zeros(shape)
    soft, bone = _tissues(generator, hu, activity, world)
    _organs(generator, hu, activity, world)
    label = _lesions(generator, hu, activity, (soft, bone), world)
    hu = ndimage.gaussian_filter(hu, 0.4) + generator.normal(0, 15, shape)
    ct = Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine)
    pet = scan_pet(generator, activity, affine, shape, affine)
    return ct, pet, Volume(label, affine)


def _tissues(generator, hu, activity, world):
    """Fat, muscle, lungs and bones; gives where lesions of soft tissue and of bone may lie."""
    x, y, z = world
    width, depth = generator.uniform(150, 180), generator.uniform(95, 120)
    parts = [
        ellipsoid(world, (0, 0, 0), (width, depth, 330)) + 1e3 * (np.abs(z) > 260),  # trunk
        ellipsoid(world, (0, 10, 360), (75, 92, 105)),  # head
        np.hypot(x, y) / 58 + 1e3 * (np.abs(z - 270) > 40),  # neck
    ]
    for side in (-1, 1):
        limbs = ((85, 78, -480, -180), (width + 42, 36, -160, 230))  # x, radius, from, to
        for place, radius, low, high in limbs:
            beyond = (z < low) | (z > high)
            parts.append(np.hypot(x - side * place, y) / radius + 1e3 * beyond)
    inside = np.minimum.reduce([np.broadcast_to(part, hu.shape) for part in parts])
    body, muscle = inside < 1, inside < 0.86
    lungs = [ellipsoid(world, (side * 75, 0, 130), (52, 70, 95)) < 1 for side in (-1, 1)]
    spine = np.hypot(x, y + 0.62 * depth) + 0 * z < 19
    pelvis = [ellipsoid(world, (side * 80, -20, -190), (45, 40, 40)) < 1 for side in (-1, 1)]
    femurs = [np.hypot(x - side * 85, y) + 0 * z < 15 for side in (-1, 1)]
    bone = (spine & (np.abs(z) < 250)) | pelvis[0] | pelvis[1]
    bone |= (femurs[0] | femurs[1]) & (z < -190)
    bone &= body
    lung = (lungs[0] | lungs[1]) & muscle & ~bone
    for mask, density, uptake in (
        (body, -90, 0.3),
        (muscle, 45, 0.7),
        (lung, -800, 0.3),
        (bone, 350, 1.0),
    ):
        hu[mask], activity[mask] = density, uptake
    return muscle & ~bone & ~lung, bone


def _organs(generator, hu, activity, world):
    """Uptake that is none of a lesion's; each organ is there in every patient."""
    liver = (70, 15, 20), (75, 65, 55), (55, 60), (1.6, 2.4)
    organs = [
        liver,
        ((0, 10, 375), (62, 76, 62), (35, 40), (5, 9)),  # brain
        ((-35, 35, 95), (38, 36, 40), (40, 45), (1.5, 8)),  # heart
        ((0, 30, -215), (32, 28, 30), (5, 10), (8, 20)),  # bladder
        *(((side * 60, -45, -30), (24, 20, 45), (30, 40), (2.5, 5)) for side in (-1, 1)),  # kidneys
    ]
    for centre, radii, density, uptake in organs:
        shift = generator.uniform(-6, 6, 3)
        scale = generator.uniform(0.85, 1.15)
        mask = ellipsoid(world, np.add(centre, shift), scale * np.array(radii)) < 1
        mask &= hu > -500
        hu[mask], activity[mask] = generator.uniform(*density), generator.uniform(*uptake)


def _lesions(generator, hu, activity, places, world):
    """Lumps of dense, active tissue; returns their label."""
    label = np.zeros(hu.shape, np.uint8)
    if generator.random() < _WITHOUT:
        return label
    # Few lesions are common, many are rare.
    count = 1 + int((_MOST_LESIONS - 1) * generator.random() ** 2)
    voxels = [np.argwhere(ndimage.binary_erosion(place)) for place in places]
    low, high = np.log(_LESION_ML)
    axes = [w.ravel() for w in world]
    for _ in range(count):
        is_bone = generator.random() < _IN_BONE
        centre = voxels[is_bone][generator.integers(len(voxels[is_bone]))]
        ml = np.exp(generator.uniform(low, high if not is_bone else np.log(6.0)))
        radius = (3000 * ml / (4 * np.pi)) ** (1 / 3)
        radii = radius * generator.uniform(0.8, 1.25, 3)
        reach = np.ceil(2 * radii / SPACING_MM).astype(int)
        box = tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, reach, strict=True))
        near = [a[part].reshape([-1 if i == k else 1 for k in range(3)])
                for i, (a, part) in enumerate(zip(axes, box, strict=True))]  # fmt: skip
        at = [a[c] for a, c in zip(axes, centre, strict=True)]
        # A lesion of bone stays in the bone and at its edge; none grows out of the body.
        mask = (ellipsoid(near, at, radii) < 1) & (hu[box] > -500) & (label[box] == 0)
        uptake = generator.uniform(2, 3) if generator.random() < 0.2 else generator.uniform(3, 10)
        hu[box][mask] = generator.uniform(250, 600) if is_bone else generator.uniform(75, 100)
        activity[box][mask] = uptake
        label[box][mask] = 2 if is_bone else 1
    return label
