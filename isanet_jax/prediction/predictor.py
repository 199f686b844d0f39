"""Trained networks, restored once and applied to many cases."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from scipy import special

from isanet_jax.cases.grid import resample
from isanet_jax.cases.prepare import Settings, check_images, image_channels
from isanet_jax.datasets.layout import Scan
from isanet_jax.distributed.mesh import compiler_options, make_mesh
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.network import systems
from isanet_jax.prediction.windows import predict_windows
from isanet_jax.runtime import command
from isanet_jax.training.checkpoint import load_params
from isanet_jax.training.config import model_config
from isanet_jax.training.step import make_predict
from isanet_jax.volume import Volume, bounds_mm

THRESHOLD = 0.5


class Predictor:
    """The best checkpoint of a run, or of several as an ensemble: the mean of their probabilities.

    Attributes:
        descriptions: what each checkpoint says of its run: `config`, `preparation`, `split`,
            `progress`.
        settings: how all of them want a scan prepared.
        seen: what the scans were like that the first was trained on, see
            `isanet_jax.cases.ranges.scan_ranges`.
        devices: how many volumes are computed at a time: one on each of JAX's devices, or on each
            group of devices that splits a volume, for a run that was trained so.

    Args:
        workdirs: folder of a run, or of several.
        half: compute in bfloat16, whatever the network was trained in.
        checkpoint: the `best` one of each run, or the `latest`.

    Raises:
        CheckpointError: a run holds no checkpoint that fits, or a damaged one.
        ConfigError: runs on cases that were prepared differently.
    """

    def __init__(self, workdirs: Sequence[Path], *, half: bool = False, checkpoint: str = "best"):
        self._members = []
        self.devices = 1
        self.descriptions = []
        if isinstance(workdirs, (str, Path)):
            workdirs = [workdirs]
        predict_of = functools.cache(make_predict)  # runs of one config share what is compiled
        for workdir in workdirs:
            graphdef, params, description = _load(workdir, half, checkpoint)
            config = description["config"]
            mesh = make_mesh(*_devices_for(config))
            self.devices = math.lcm(self.devices, mesh.shape["data"])
            replicated = NamedSharding(mesh, PartitionSpec())
            options = {
                "patch": config["data"]["patch"],
                "mirror": config["predict"]["mirror"],
                "options": compiler_options(config, mesh),
            }
            predict = predict_of(graphdef, mesh, **options)
            self._members.append((predict, jax.device_put(params, replicated)))
            self.descriptions.append(description)
            # Runs from before a setting existed have its default.
            default = dataclasses.asdict(Settings())
            first, this = (default | d["preparation"] for d in (self.descriptions[0], description))
            if this != first:
                differences = ", ".join(
                    f"{name} {value} and {first[name]}"
                    for name, value in this.items()
                    if value != first[name]
                )
                raise ConfigError(
                    f"{workdir} and {workdirs[0]} were trained on cases prepared differently "
                    f"({differences}); an ensemble's networks must see the same images"
                )
        preparation = dict(first)
        for name in ("label_values", "other_values"):
            preparation[name] = tuple(preparation[name])
        self.settings = Settings(**preparation)
        self.seen = self.descriptions[0].get("seen", {})

    def probability(self, ct_hu: np.ndarray, pet_suv: np.ndarray) -> np.ndarray:
        """Tumour probability on the case grid: (D, H, W) images -> (D, H, W) float32."""
        return self.probabilities(ct_hu[None], pet_suv[None])[0]

    def probabilities(self, ct_hu: np.ndarray, pet_suv: np.ndarray) -> np.ndarray:
        """The same of a batch: (B, D, H, W) -> (B, D, H, W), spread over the devices."""
        count = len(ct_hu)
        filled = [*range(count), *[count - 1] * (-count % self.devices)]
        if len(filled) > count:
            ct_hu, pet_suv = ct_hu[filled], pet_suv[filled]
        total = sum(
            np.asarray(predict(params, ct_hu, pet_suv)) for predict, params in self._members
        )
        return total[:count] / len(self._members)

    def probabilities_of_scans(
        self, images: Sequence[tuple[Scan, Volume, Volume]], *, batch: int = 1, progress=None
    ) -> list[tuple[Volume, list[str]] | Exception]:
        """Tumour probability of scans on the CTs' own grids, spread over the devices.

        A network of fixed spacing sees a scan without a box in windows over the whole CT.

        Args:
            images: of each scan (scan, ct, pet): the scan gives the box and the names for errors,
                ct and pet are in HU and SUV.
            batch: windows computed together, on each device.
            progress: see `isanet_jax.prediction.windows.predict_windows`; None: not shown.

        Returns:
            For each scan its probability and warnings about it, or the error that it has met:
            a DataError, or whatever else was raised.
        """
        found, cases = {}, {}
        for index, (scan, ct, pet) in enumerate(images):
            try:
                if self._needs_windows(scan):
                    found[index] = self._probability_by_windows(scan, ct, pet, batch, progress)
                else:
                    cases[index] = image_channels(scan, ct, pet, self.settings)
            except Exception as error:
                found[index] = error
        if cases:
            channels = [np.stack([case[i] for case in cases.values()]) for i in range(2)]
            try:
                values = self.probabilities(*channels)
            except Exception as error:
                return [found.get(index, error) for index in range(len(images))]
            for (index, (_, _, affine, warnings)), value in zip(cases.items(), values, strict=True):
                scan, ct, _ = images[index]
                try:
                    check_finite(value, case=scan.case, file=scan.ct)
                    found[index] = to_ct_grid(value, affine, ct), warnings
                except Exception as error:
                    found[index] = error
        return [found[index] for index in range(len(images))]

    def _needs_windows(self, scan):
        return (
            scan.box_mm is None and self.settings.fit == "crop" and self.settings.region == "given"
        )

    def _probability_by_windows(self, scan, ct, pet, batch, progress):
        warnings = check_images(scan, ct, pet)
        values, affine = predict_windows(
            self.probabilities,
            ct,
            pet,
            self.settings,
            batch=batch * self.devices,
            progress=progress or (lambda _, batches: batches),
            where={"case": scan.case, "file": scan.ct},
        )
        check_finite(values, case=scan.case, file=scan.ct)
        return to_ct_grid(values, affine, ct), warnings


def check_finite(probability: np.ndarray, *, case: str, file=None) -> None:
    """Raises DataError where a network's probability is not finite: "no tumour" does not follow."""
    bad = probability.size - np.count_nonzero(np.isfinite(probability))
    if bad:
        raise DataError(
            f"the network's probability is not finite in {bad} of {probability.size} voxels",
            case=case,
            file=file,
            wanted="a probability in each",
            action=f"Look at the network: does {command('eval')} score it? Else train it again",
        )


def _devices_for(config) -> tuple[int, int]:
    """The mesh (data, space) of all devices that predicts with a run of this config."""
    devices, space = jax.device_count(), config["mesh"]["space"]
    if 1 < space <= devices:  # its volumes may not fit one device
        return devices // space, space
    return devices, 1


def _load(workdir, half, checkpoint):
    """A run's structure, best parameters and description."""
    structure = {}

    def make_params(description):
        data, space = _devices_for(description["config"])  # not those that it was trained on
        model = model_config(description["config"] | {"mesh": {"data": data, "space": space}})
        if half:
            model = dataclasses.replace(model, dtype="bfloat16")
        structure["graphdef"], params = systems.create_abstract(model)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), params)

    params, description = load_params(workdir, make_params, which=checkpoint)
    return structure["graphdef"], params, description


def entropy(probability: np.ndarray) -> np.ndarray:
    """Uncertainty of tumour or not, -p log2 p - (1-p) log2 (1-p): 0 where sure, 1 bit at p = 0.5.

    Args:
        probability: any shape; of an ensemble, the mean over its networks (predictive entropy).

    Returns:
        float32 of that shape.
    """
    p = np.clip(probability, 0, 1)  # interpolation may leave the interval by a rounding error
    return np.float32((special.entr(p) + special.entr(1 - p)) / np.log(2))


def to_ct_grid(values: np.ndarray, affine: np.ndarray, ct: Volume) -> Volume:
    """Values of a case grid, trilinear, on the CT's own grid; 0 outside the case's field.

    Args:
        values: (D, H, W), a probability or an SUV.
        affine: (4, 4) of the case grid.
        ct: gives the grid; its data's shape counts only.

    Returns:
        (I, J, K) float32 with the CT's geometry.
    """
    # Only the part of the CT that the case's field reaches: a box in a whole-body CT is small.
    low, high = bounds_mm(values.shape, np.linalg.inv(ct.affine) @ affine)
    start = np.clip(np.floor(low).astype(int), 0, ct.data.shape)
    stop = np.clip(np.ceil(high).astype(int) + 1, start, ct.data.shape)
    shifted = ct.affine.copy()
    shifted[:3, 3] += ct.affine[:3, :3] @ start
    data = np.zeros(ct.data.shape, np.float32)
    if (stop > start).all():
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        part = resample(Volume(values, affine), stop - start, shifted, order=1, fill=0.0)
        data[box] = part
    return Volume(data, ct.affine, ct.header)
