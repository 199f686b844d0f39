"""nnU-Net's augmentation, here and by batchgeneratorsv2: python -m benchmarks.augmentation.

Samples of two images and a label at 128^3, rotated, scaled, mirrored and changed in intensity with
nnU-Net's probabilities. Here: one compiled function of a batch, on all cores. batchgeneratorsv2:
nnU-Net's list of transforms in two worker processes of one thread (pip install batchgeneratorsv2
torch). Both begin with arrays of the size that nnU-Net reads for it, in memory.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np

DEGREES, SCALES = 30.0, (0.7, 1.4)
IMAGES = ("ct", "pet")
# nnU-Net's probabilities (nnUNetTrainer 2.8.1).
SETTINGS = {
    "rotation_probability": 0.2, "rotation_degrees": DEGREES, "rotation_of_all_axes": True,
    "scaling_probability": 0.2, "scaling_range": SCALES, "mirror_probability": 1.0,
    "mixup_probability": 0.0, "noise_probability": 0.1, "blur_probability": 0.2,
    "brightness_probability": 0.15, "contrast_probability": 0.15,
    "low_resolution_probability": 0.25, "inverted_gamma_probability": 0.1,
    "gamma_probability": 0.3,
}  # fmt: skip


def read_size(patch):
    """As nnU-Net's get_patch_size: turned by the largest angle about one axis, and scaled."""
    angle = np.deg2rad(DEGREES)
    turned = patch * (np.cos(angle) + np.sin(angle))
    return int(np.ceil(turned / 0.85))  # nnU-Net's own allowance for the scaling


def volumes(size):
    """Two images and a label."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, size, size, size)).astype(np.float32)
    return images, (generator.random((size, size, size)) < 0.02).astype(np.uint8)


def ours(patch):
    """Endless augmented samples."""
    import jax

    from isanet_jax.pipeline.augment import augment
    from isanet_jax.pipeline.draw import draw_augmentation
    from isanet_jax.pipeline.intensity import change_intensity
    from isanet_jax.pipeline.normalise import normalised
    from isanet_jax.settings.table import Augment

    size = read_size(patch)
    images, label = volumes(size)
    kinds = dict.fromkeys(IMAGES, "other")
    settings = Augment(**SETTINGS)
    fixed = {
        "images": {name: x[None] for name, x in zip(IMAGES, images, strict=True)},
        "labels": {"tumour": 2 * label[None]},
        "outside": dict.fromkeys(IMAGES, np.zeros(1, np.float32)),
        "centre": np.full((1, 3), (size - 1) / 2, np.float32),
    }
    fixed = jax.device_put(fixed)

    @jax.jit
    def make(fixed, drawn):
        images, labels, _ = augment(fixed | drawn, (patch,) * 3)
        channels = normalised(images, kinds, of_volume=False)
        return change_intensity(channels, drawn["intensity"]), labels

    generator = np.random.default_rng(0)
    while True:
        drawn = draw_augmentation(generator, settings, np.ones(3), IMAGES, len(IMAGES))
        drawn = {name: drawn[name] for name in ("rotation", "mirror", "intensity")}
        drawn = jax.tree.map(lambda x: np.asarray(x)[None], drawn)
        yield jax.block_until_ready(make(fixed, drawn))


def nnunet(patch):
    """Endless samples of nnU-Net's list of transforms, from two processes."""
    import torch
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle, span = np.deg2rad(DEGREES), BGContrast((0.75, 1.25))
    transforms = [
        SpatialTransform(
            (patch,) * 3, 0, False, p_rotation=0.2, rotation=(-angle, angle), p_scaling=0.2,
            scaling=SCALES, p_synchronize_scaling_across_axes=1,
        ),
        *(RandomTransform(transform, apply_probability=share) for transform, share in (
            (GaussianNoiseTransform((0, 0.1), 1, True), 0.1),
            (GaussianBlurTransform((0.5, 1.0), False, False, 0.5), 0.2),
            (MultiplicativeBrightnessTransform(span, False, 1), 0.15),
            (ContrastTransform(span, True, False, 1), 0.15),
            (SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 0.5), 0.25),
            (GammaTransform(BGContrast((0.7, 1.5)), 1, False, 1, 1), 0.1),
            (GammaTransform(BGContrast((0.7, 1.5)), 0, False, 1, 1), 0.3),
        )),
        MirrorTransform((0, 1, 2)),
    ]  # fmt: skip
    pipeline, (images, label) = ComposeTransforms(transforms), volumes(read_size(patch))

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            torch.set_num_threads(1)
            np.random.seed(index)  # noqa: NPY002 - the package draws from it
            given = {"image": torch.tensor(images), "segmentation": torch.tensor(label[None])}
            found = pipeline(**given)
            return found["image"], found["segmentation"]

    yield from torch.utils.data.DataLoader(Samples(), batch_size=1, num_workers=2)


PIPELINES = {"isanet_jax": ours, "batchgeneratorsv2": nnunet}


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--count", type=int, default=60, help="samples in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--of", choices=PIPELINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        from benchmarks.patches import items_per_second

        print(items_per_second(PIPELINES[args.of](args.patch), args.count))
        return
    rates = {name: [] for name in PIPELINES}
    for _ in range(args.rounds):  # alternating
        for name, found in rates.items():
            words = [sys.executable, "-m", "benchmarks.augmentation", "--of", name]
            words += ["--patch", str(args.patch), "--count", str(args.count)]
            out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            found.append(float(out.split()[-1]))
            time.sleep(1)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print("| augmentation | samples/s | times batchgeneratorsv2's |\n|---|---|---|")
    for name, rate in medians.items():
        print(f"| {name} | {rate:.2f} | {rate / medians['batchgeneratorsv2']:.2f} |")


if __name__ == "__main__":
    main()
