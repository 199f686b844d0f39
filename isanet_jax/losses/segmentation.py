"""The loss of a network's whole output, whichever loss it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from isanet_jax.errors import ConfigError
from isanet_jax.network.system import Output
from isanet_jax.registry import Registry
from isanet_jax.settings.table import Loss as LossSettings


class Loss(NamedTuple):
    """A loss; a file's `LOSSES` maps the names of its losses to these.

    Attributes:
        function: (logits, label, settings, known) -> name -> part, () float32 each, whose sum is
            the loss. logits and label are (B, D, H, W, classes), the label in [0, 1]; settings are
            `isanet_jax.settings.table.Loss`; known is (B, D, H, W, 1), 0 where a voxel is to be
            left out, or None.
        reads: settings of `loss` that it reads besides those that all do; others are refused.
    """

    function: Callable[..., dict[str, jax.Array]]
    reads: tuple[str, ...] = ()


LOSSES: Registry = Registry("LOSSES", "isanet_jax.losses")


def find_loss(name: str) -> Loss:
    """The loss of a name. Raises ConfigError: there is none."""
    if name not in LOSSES:
        raise ConfigError(f"loss.name is {name!r}; choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


def segmentation_loss(
    output: Output, label: jax.Array, settings: LossSettings, ignored: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted mean of a loss over all that the network supervises.

    Args:
        output: of the network; a coarser auxiliary output is compared with the label's nearest
            voxels.
        label: (B, D, H, W, classes), in [0, 1]; may be soft.
        settings: of the loss.
        ignored: (B, D, H, W), above 0 in voxels that are left out; None: all count.

    Raises:
        ValueError: the label has not the logits' shape.

    Returns:
        loss, and its parts for the first output.
    """
    if label.shape != output.logits.shape:  # they would be broadcast
        raise ValueError(f"a label {label.shape} for logits {output.logits.shape}")
    function = find_loss(settings.name).function
    total, weights, first = 0.0, 0.0, None
    for weight, logits in ((1.0, output.logits), *output.auxiliary):
        factors = [a // b for a, b in zip(label.shape[1:4], logits.shape[1:4], strict=True)]
        coarse = (slice(None), *[slice(factor // 2, None, factor) for factor in factors])
        known = None if ignored is None else (ignored[coarse] == 0).astype(logits.dtype)[..., None]
        parts = function(logits, label[coarse], settings, known)
        first = first or parts
        total, weights = total + weight * sum(parts.values()), weights + weight
    return total / weights, first
