"""Native against folded operations on this machine's CPU: python -m benchmarks.convolution.

Native is what a user gets from XLA's own 3D operations (flax.nnx.Conv and its like).
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from isanet_jax.network.convolution import conv3d, max_pool, upsample_conv3d

# operation, size, input channels, output channels, kernel
CASES = [
    ("conv", 32, 8, 8, 3),
    ("conv", 32, 8, 8, 5),
    ("conv", 32, 1, 8, 3),
    ("conv", 16, 16, 16, 5),
    ("conv", 8, 64, 64, 5),
    ("conv", 2, 128, 128, 5),
    ("transposed conv", 16, 16, 8, 3),
    ("max pool", 32, 8, 8, 2),
]
ROUNDS = 5
_WINDOW = (1, 2, 2, 2, 1)


def _functions(operation, form):
    """(forward, forward and backward) as compiled functions of (x, kernel)."""

    def forward(x, kernel):
        if operation == "conv":
            return conv3d(x, kernel, form)
        if operation == "transposed conv":
            return upsample_conv3d(x, kernel, form)
        if form == "folded":
            return max_pool(x)
        return lax.reduce_window(x, -jnp.inf, lax.max, _WINDOW, _WINDOW, "VALID")

    def loss(x, kernel):
        return jnp.sum(jnp.square(forward(x, kernel)))

    return jax.jit(forward), jax.jit(jax.grad(loss, (0, 1)))


def main():
    """Prints a Markdown table; rounds alternate between the forms, medians are shown."""
    generator = np.random.default_rng(0)
    device = jax.devices()[0].platform
    print(f"| operation ({device}, float32) | native ms (fwd / grad) | folded ms | ratio |")
    print("|---|---|---|---|")
    for operation, size, inputs, outputs, width in CASES:
        x = jnp.asarray(generator.normal(size=(1, size, size, size, inputs)), jnp.float32)
        kernel = generator.normal(size=(width, width, width, inputs, outputs))
        kernel = jnp.asarray(kernel, jnp.float32)
        functions = [f for form in ("native", "folded") for f in _functions(operation, form)]
        seconds = [[] for _ in functions]
        for repeat in range(ROUNDS + 1):
            for function, times in zip(functions, seconds, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(function(x, kernel))
                if repeat:  # the first round compiles
                    times.append(time.perf_counter() - start)
        a, b, c, d = (1e3 * np.median(times) for times in seconds)
        print(
            f"| {operation} {width}^3, {size}^3, {inputs} to {outputs} | {a:.1f} / {b:.1f} "
            f"| {c:.1f} / {d:.1f} | {a / c:.1f} / {b / d:.1f} |"
        )


if __name__ == "__main__":
    main()
