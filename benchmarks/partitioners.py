"""Gradients of a depth that XLA's partitioners split, against one device's.

    python -m benchmarks.partitioners shardy    # or gspmd, the older one

docs/evidence/distributed.md has the table, and what follows from it.
"""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_use_shardy_partitioner", sys.argv[1:] == ["shardy"])


def conv(x, kernel, stride=1, up=1):
    """A 3³ convolution; with `up` 2, a transposed one."""
    pad = (1, 1) if up == 1 else (1, 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * 3,
        (pad,) * 3,
        lhs_dilation=(up,) * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def loss(kernels, x):
    """The mean square of what a strided, a plain and a transposed convolution make."""
    a, b, c = kernels
    return (conv(conv(conv(x, a, stride=2), b), c, up=2) ** 2).mean()


def gradients(devices):
    """The loss and its gradients, with the depth of 8 over so many devices."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("space",), axis_types=(AxisType.Auto,))
    over_depth = NamedSharding(mesh, P(None, "space"))
    whole = NamedSharding(mesh, P())
    step = jax.jit(jax.value_and_grad(loss), in_shardings=(whole, over_depth), out_shardings=whole)
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(3, 3, 3, 1, 1)) for _ in range(3)]
    return jax.device_get(step(kernels, random.normal(size=(1, 8, 8, 8, 1))))


if __name__ == "__main__":
    (one, wanted), (eight, found) = gradients(1), gradients(8)
    print("loss", abs(eight / one - 1))
    for name, a, b in zip("abc", wanted, found, strict=True):
        print(name, np.abs(a - b).max() / np.abs(a).max())
