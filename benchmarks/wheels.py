"""Wheels for a machine without network: python -m benchmarks.wheels [--output wheels].

For one that has JAX for its GPU, Flax, Optax, Orbax, NumPy and SciPy, and lacks the rest. There:

    pip install --no-index --find-links wheels --no-deps wheels/*.whl
    python -m benchmarks.gpu
"""

import argparse
import subprocess
import sys
from pathlib import Path

# What benchmarks.gpu imports besides, with what that needs in turn.
PACKAGES = ("grain", "nibabel", "ml_collections", "tensorboardX", "tqdm", "pydicom", "safetensors")
# These are there, and fit that machine's GPU: wheels of another version must not replace them.
_THERE = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "scipy", "nvidia", "torch")


def main(arguments=None):
    """Downloads them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("wheels"))
    parser.add_argument("--python", default="3.12", help="of that machine (default: %(default)s)")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    platforms = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64",
                 "manylinux_2_28_x86_64")  # fmt: skip
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--dest", args.output),
            *("--only-binary=:all:", "--python-version", args.python),
            *(word for name in platforms for word in ("--platform", name)),
            *PACKAGES,
        ],
        check=True,
    )
    for path in sorted(args.output.glob("*.whl")):
        if path.name.startswith(_THERE):
            path.unlink()
    sizes = [path.stat().st_size for path in args.output.glob("*.whl")]
    print(f"{len(sizes)} wheels, {sum(sizes) / 2**20:.1f} MiB, in {args.output}")


if __name__ == "__main__":
    main()
