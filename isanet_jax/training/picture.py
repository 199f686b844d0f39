"""What a network finds in a validation case, as a picture for TensorBoard."""

import numpy as np
from scipy import ndimage

PICTURED = 3  # cases of a validation, the first ones
# Okabe and Ito's: told apart by eyes that do not tell red from green.
_REFERENCE, _FOUND = (86, 180, 233), (230, 159, 0)
_LOW, _HIGH = 1.0, 99.5  # percentiles of an image that become black and white
_LEAST_EDGE = 256  # pixels: small slices are shown larger


def picture(images, probability: np.ndarray, masks) -> np.ndarray:
    """The axial slice with most tumour (most of what was found, where there is none).

    The images side by side; outlines of the reference blue, of the prediction (one half and more)
    orange; of several classes together.

    Args:
        images: name -> (D, H, W).
        probability: (D, H, W, classes).
        masks: class -> (D, H, W) bool.

    Returns:
        (rows, columns, 3) uint8.
    """
    truth = np.logical_or.reduce(list(masks.values()))
    found = (probability >= 0.5).any(-1)
    of_slices = (truth if truth.any() else found).sum((1, 2))
    where = int(of_slices.argmax()) if of_slices.any() else len(of_slices) // 2
    panels = []
    for image in images.values():
        low, high = np.percentile(image, [_LOW, _HIGH])
        gray = np.clip((image[where] - low) / max(high - low, 1e-6), 0, 1) * 255
        panels.append(np.repeat(gray[..., None], 3, -1).astype(np.uint8))
    zoom = -(-_LEAST_EDGE // max(truth.shape[1:]))
    panels = [panel.repeat(zoom, 0).repeat(zoom, 1) for panel in panels]
    for mask, colour in ((truth[where], _REFERENCE), (found[where], _FOUND)):
        large = mask.repeat(zoom, 0).repeat(zoom, 1)
        edge = large & ~ndimage.binary_erosion(large)
        for panel in panels:
            panel[edge] = colour
    return np.concatenate(panels, 1)
