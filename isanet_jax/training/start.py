"""Where a training starts that does not start from nothing: at a trained network's parameters."""

from typing import NamedTuple

import jax
import numpy as np

from isanet_jax.errors import CheckpointError, ConfigError
from isanet_jax.files import is_bundle
from isanet_jax.network import systems
from isanet_jax.runs.bundle import named_arrays, read_bundle
from isanet_jax.runs.checkpoint import load_params
from isanet_jax.settings import read_stored

_LEAST_SHARE = 0.25  # of a network's arrays: fewer are alike by chance


class Start(NamedTuple):
    """A trained network to start from: where it is, its arrays by name, and its description."""

    path: str
    arrays: dict[str, np.ndarray]
    description: dict


def read_start(path) -> Start:
    """A model (`isanet bundle`), or a run's best checkpoint.

    Raises:
        CheckpointError: neither, or a damaged one.
        ConfigError: a model of several networks.
    """
    if is_bundle(path):
        networks = read_bundle(path).networks
        if len(networks) > 1:
            raise ConfigError(
                f"init is {path}, which has {len(networks)} networks; a training starts from one"
            )
        ((description, arrays),) = networks
        systems.check_version(description, path)
        return Start(path, arrays, description)

    def abstract(description):
        return systems.create_abstract(systems.of_config(read_stored(description["config"])))[1]

    params, description = load_params(path, abstract)
    arrays = {name: np.asarray(array) for name, array in named_arrays(params)}
    return Start(path, arrays, description)


def started_from(start: Start, params) -> tuple[dict, str]:
    """Parameters of which those are replaced that a trained network has in the same shape.

    Other images, classes, widths or levels may be asked for: what depends on them is drawn anew.

    Args:
        start: the trained network.
        params: as they were drawn.

    Returns:
        the parameters, and a sentence on what was taken and what was not.

    Raises:
        CheckpointError: hardly anything in it fits.
    """
    path, trained, _ = start
    drawn = named_arrays(params)
    taken = {
        name for name, array in drawn if name in trained and trained[name].shape == array.shape
    }
    if len(taken) < _LEAST_SHARE * len(drawn):
        raise CheckpointError(
            f"init is {path}, of which {len(taken)} arrays are among the {len(drawn)} of this "
            "network; name a model of the same system and width"
        )
    leaves = [
        jax.device_put(trained[name].astype(array.dtype), array.sharding)
        if name in taken
        else array
        for name, array in drawn
    ]
    anew = [name for name, _ in drawn if name not in taken]
    shown = ", ".join(anew[:5]) + (", ..." if len(anew) > 5 else "")
    text = f"starting from {path}: {len(taken)} of {len(drawn)} arrays are taken" + (
        f", {len(anew)} are drawn anew ({shown})" if anew else ""
    )
    return jax.tree.unflatten(jax.tree.structure(params), leaves), text
