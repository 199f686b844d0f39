"""What each of the cells that run side by side gets: a GPU, or a part of the processor."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from isanet_jax.errors import ConfigError


class Resources(NamedTuple):
    """What a job has of the machine: cores (None: all), and a GPU where there are any."""

    cores: list[int] | None = None
    gpu: str | None = None


def divide_resources(jobs: int) -> list[Resources]:
    """The machine's GPUs, or else its cores, dealt to the jobs; see `run_cells`."""
    gpus = visible_gpus(os.environ)
    jobs = jobs or len(gpus) or 1
    if gpus:
        if jobs > len(gpus):
            raise ConfigError(f"--jobs is {jobs} and there are {len(gpus)} GPUs, for a cell each")
        return [Resources(gpu=gpu) for gpu in gpus[:jobs]]
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [Resources()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise ConfigError(f"--jobs is {jobs} and this machine has {len(cores)} cores")
    return [Resources(cores[slot::jobs]) for slot in range(jobs)]


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """NVIDIA's GPUs that programs started from here would use, without taking hold of them."""
    if environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [gpu for gpu in environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    driver = Path("/proc/driver/nvidia/gpus")
    # Some containers have the devices without the driver's folder.
    found = driver.iterdir() if driver.is_dir() else Path("/dev").glob("nvidia[0-9]*")
    return [str(i) for i in range(len(list(found)))]
