"""From HU, SUV and other values to the network's input (Eqs. 16-17).

What needs a case is done on the host (`standardised`, `standardise_part`); what needs nothing but
the volume at hand, on the device (`normalised`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from isanet_jax.kinds import KINDS, WIDE, CtWindow

_SUV = 5.0  # of a PET of a fixed scale, becomes 1: about where tumours begin to stand out


def statistics_of(case, kinds: Mapping[str, str], pet_scale: str) -> dict:
    """What the images of a case are standardised by: name -> mean and standard deviation.

    Args:
        case: `isanet_jax.cases.case.Case`.
        kinds: name -> kind.
        pet_scale: `case`, by its own; `suv`, every PET alike.
    """
    fixed = {name for name, kind in kinds.items() if kind == "pet" and pet_scale == "suv"}
    return {name: (0.0, _SUV) if name in fixed else case.statistics[name] for name in kinds}


def scale_of(kind, statistics, of_volume):
    """(subtracted, factor) by which the host standardises an image by; None: the device does it."""
    if kind == "ct" or (kind == "pet" and of_volume):
        return None
    mean, sd = map(np.float32, statistics)
    return mean, 1 / np.sqrt(sd * sd + np.float32(1e-5))


def standardised(
    images: Mapping[str, np.ndarray],
    statistics: Mapping[str, tuple[float, float]],
    kinds: Mapping[str, str],
    *,
    of_volume: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.float32]]:
    """Images as the device is given them, and what they are beyond their fields.

    CT stays HU, and PET of whole volumes SUV: see `normalise`. Others
    have their case's mean subtracted and are divided by its standard deviation.

    Args:
        images: name -> (D, H, W).
        statistics: name -> mean and standard deviation, see
            `isanet_jax.cases.images.image_statistics`.
        kinds: name -> kind.
        of_volume: whether whole volumes are given.

    Returns:
        name -> float32 of the image's shape, and name -> () float32.
    """
    found, outside = {}, {}
    for name, kind in kinds.items():
        x, beyond = images[name].astype(np.float32), np.float32(KINDS[kind].outside)
        if scale := scale_of(kind, statistics[name], of_volume):
            mean, factor = scale
            x, beyond = (x - mean) * factor, (beyond - mean) * factor
        found[name], outside[name] = x, beyond
    return found, outside


def normalise(
    images: dict[str, jax.Array],
    kinds: dict[str, str],
    *,
    of_volume: bool,
    ct_windows: tuple[CtWindow, ...] = (WIDE,),
) -> jax.Array:
    """The network's input (Eqs. 16-17): (B, D, H, W, channels) float32, see `normalised`."""
    return jnp.stack(normalised(images, kinds, of_volume=of_volume, ct_windows=ct_windows), axis=-1)


def normalised(
    images: dict[str, jax.Array],
    kinds: dict[str, str],
    *,
    of_volume: bool,
    ct_windows: tuple[CtWindow, ...] = (WIDE,),
) -> list[jax.Array]:
    """The network's channels (Eqs. 16-17).

    CT is clipped to [-1024, 1024] HU and divided by 1024, or as its windows say; each is a channel.
    PET of whole volumes has the volume's mean subtracted and is divided by its standard deviation;
    other images come so from the host, by their case's
    (`standardised`).

    Args:
        images: name -> (B, D, H, W); HU of a CT.
        kinds: name -> kind, in the order of the channels.
        of_volume: whether the PET is SUV of whole volumes.
        ct_windows: of the images that are CT.

    Returns:
        (B, D, H, W) float32 of each channel.
    """
    channels = []
    for name, kind in kinds.items():
        x = images[name].astype(jnp.promote_types(images[name].dtype, jnp.float32))
        if kind == "ct":
            channels += [_in_window(x, window) for window in ct_windows]
            continue
        if kind == "pet" and of_volume:
            centred = x - x.mean((1, 2, 3), keepdims=True)
            variance = jnp.square(centred).mean((1, 2, 3), keepdims=True)
            x = centred * jax.lax.rsqrt(variance + 1e-5)
        channels.append(x)
    return channels


def _in_window(hu, window):
    return (jnp.clip(hu, window.low, window.high) - window.subtracted) / window.divided
