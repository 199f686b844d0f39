"""Surface distances of two masks beside other packages': python -m benchmarks.metrics.

HD, HD95 and ASSD by MONAI and surface-distance. MONAI's HD95 is the larger of the directions'
percentiles and its ASSD pools the directions, as `hd95` and `assd_pooled` here: they must agree.
surface-distance measures on another surface (between voxels, weighted by area), so its HD95 and
ASSD differ by a fraction of a voxel; they are shown, not compared.
"""

import argparse
import time

import numpy as np
import surface_distance
import torch
from monai import metrics as monai_metrics
from scipy import ndimage

from isanet_jax.metrics.segmentation import surface_distances

SPACING_MM = (3.0, 1.0, 1.0)


def masks(size, radius):
    """A lobed tumour and a shifted, smoothed version of it."""
    generator = np.random.default_rng(0)
    offsets = np.indices((size,) * 3) - size / 2
    noise = ndimage.gaussian_filter(generator.normal(size=(size,) * 3), 4)
    reference = np.sqrt(np.square(offsets).sum(0)) + 60 * noise < radius
    prediction = np.roll(ndimage.binary_erosion(reference, iterations=2), 2, (0, 1))
    return prediction, reference


def ours(prediction, reference):
    """hd, hd95, assd_pooled in mm."""
    found = surface_distances(prediction, reference, SPACING_MM)
    return found["hd"], found["hd95"], found["assd_pooled"]


def monai(prediction, reference):
    """The same by MONAI: a call for each, as its users make them."""
    a, b = (torch.tensor(m)[None, None] for m in (prediction, reference))
    shared = {"include_background": True, "spacing": SPACING_MM}
    return (
        float(monai_metrics.compute_hausdorff_distance(a, b, **shared)),
        float(monai_metrics.compute_hausdorff_distance(a, b, percentile=95, **shared)),
        float(monai_metrics.compute_average_surface_distance(a, b, symmetric=True, **shared)),
    )


def deepmind(prediction, reference):
    """The same by surface-distance."""
    found = surface_distance.compute_surface_distances(reference, prediction, SPACING_MM)
    both = surface_distance.compute_average_surface_distance(found)
    return (
        surface_distance.compute_robust_hausdorff(found, 100),
        surface_distance.compute_robust_hausdorff(found, 95),
        float(np.mean(both)),
    )


def main():
    """Prints a Markdown table; rounds alternate between the three, medians are shown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"| {args.size}^3 | voxels | ms | HD, HD95, ASSD (mm) | times isanet_jax |")
    print("|---|---|---|---|---|")
    for radius in (args.size // 12, args.size // 5):
        pair = masks(args.size, radius)
        methods = {"isanet_jax": ours, "MONAI": monai, "surface-distance": deepmind}
        seconds, values = {name: [] for name in methods}, {}
        for name, method in list(methods.items()):
            try:
                method(*pair)
            except (AttributeError, TypeError, ValueError) as error:
                print(f"| {name} | | does not run: {error} | | |")
                del methods[name]
        for _ in range(args.rounds):
            for name, method in methods.items():
                started = time.perf_counter()
                values[name] = method(*pair)
                seconds[name].append(time.perf_counter() - started)
        np.testing.assert_allclose(values["isanet_jax"], values["MONAI"], rtol=1e-5)
        base = np.median(seconds["isanet_jax"])
        for name in methods:
            took = np.median(seconds[name])
            shown = ", ".join(f"{v:.3f}" for v in values[name])
            print(f"| {name} | {pair[1].sum()} | {1e3 * took:.1f} | {shown} | {took / base:.1f} |")


if __name__ == "__main__":
    main()
