"""The command line of `isanet doctor`: what the program finds on this machine."""

import importlib.metadata
import os
import platform
import re
import shutil
import time
import tomllib
from pathlib import Path

import isanet_jax
from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder
from isanet_jax.machine import GIB, memory_bytes, usable_cores

_LEAST_FREE_GIB, _LEAST_MEMORY_GIB = 5.0, 4.0


def parser() -> Parser:
    """The arguments of doctor."""
    root = Parser(
        description="Says what this machine has: versions, devices, memory, the cache of compiled "
        "functions, disk; and computes a little on each device to see that it is right. Ends with "
        "status 2 where something is in the way of training.",
    )
    root.add_argument("--folder", default=".", help="where runs and cases are to be (default: .)")
    return root


def main(arguments=None) -> None:
    """Runs doctor.

    Raises:
        ConfigError: what was found to be wrong.
    """
    args = parser().parse_args(arguments)
    folder = check_folder(Path(args.folder))
    problems = []
    for title, check in (
        ("versions", _versions),
        ("memory", _memory),
        ("cache", _cache),
        ("disk", lambda: _disk(folder)),
        ("devices", _devices),
        ("self-test", _self_test),
    ):
        lines, found = check()
        for line in lines:
            print(f"{title and title + ':':11}{line}", flush=True)
            title = ""  # noqa: PLW2901 - of the first line alone
        problems += found
    if problems:
        raise ConfigError("; ".join(problems))
    print("nothing is in the way of training")


def _versions():
    """Those of what the package needs, and what is older than it asks for."""
    wanted = _requirements()
    names, problems = [], []
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name, least = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(?:>=([\d.]+))?.*", requirement).groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed: pip install '{requirement}'")
            continue
        names.append(f"{name} {version}")
        if least and _numbers(version) < _numbers(least):
            problems.append(f"{name} is {version}: pip install '{requirement}'")
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return [f"isanet_jax {isanet_jax.__version__}, {system}", ", ".join(names)], problems


def _requirements():
    """What the package needs; in a clone that is not installed, by its pyproject.toml."""
    try:
        return importlib.metadata.requires("isanet_jax") or []
    except importlib.metadata.PackageNotFoundError:
        path = Path(isanet_jax.__file__).parents[1] / "pyproject.toml"
        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]


def _numbers(version):
    return [int(n) for n in re.findall(r"\d+", version)[:3]]


def _memory():
    if (usable := memory_bytes()) is None:
        return ["not known on this system"], []
    problems = []
    if usable / GIB < _LEAST_MEMORY_GIB:
        problems.append(
            f"this process may use {usable / GIB:.1f} GiB of memory: train at a smaller size"
        )
    return [f"{usable / GIB:.1f} GiB; {usable_cores()} processor cores"], problems


def _cache():
    """The folder that compiled functions are kept in."""
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    if not folder.name:
        return ["compiled functions are not kept"], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".doctor-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        return [f"{folder}"], [
            f"{folder} cannot be written to ({error.strerror}), and everything is compiled anew "
            "each time: set XDG_CACHE_HOME"
        ]
    files = [entry.stat().st_size for entry in folder.iterdir() if entry.is_file()]
    return [f"{folder}, {len(files)} files, {sum(files) / GIB:.2f} GiB"], []


def _disk(folder):
    free = shutil.disk_usage(folder if folder.exists() else ".").free / GIB
    problems = []
    if free < _LEAST_FREE_GIB:
        problems.append(f"{folder.absolute()} has {free:.1f} GiB left: a run keeps up to 1 GiB")
    return [f"{free:.1f} GiB free in {folder.absolute()}"], problems


def _devices():
    import jax

    lines = []
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else 0
        size = f", {limit / GIB:.1f} GiB for JAX" if limit else ""
        lines.append(f"{device.platform} {device.id}: {device.device_kind}{size}")
    driver = Path("/proc/driver/nvidia/gpus")
    problems = []
    if jax.default_backend() == "cpu" and driver.is_dir() and any(driver.iterdir()):
        problems.append(
            "there is an NVIDIA GPU, and JAX does not use it: pip install 'isanet_jax[cuda12]', "
            "and look at JAX_PLATFORMS and CUDA_VISIBLE_DEVICES"
        )
    return lines, problems


def _self_test():
    """A convolution and its gradient on each device, against NumPy in double precision."""
    import jax
    import numpy as np
    from scipy import ndimage

    from isanet_jax.network.convolution import conv3d

    generator = np.random.default_rng(0)
    x = generator.normal(size=(1, 12, 12, 12, 1)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, 3, 1, 1)).astype(np.float32)
    exact = ndimage.correlate(x[0, ..., 0].astype(float), kernel[..., 0, 0], mode="constant")
    # The sum of squares' gradient by the kernel, at one tap: 2 sum(out * shifted x).
    shifted = np.pad(x[0, ..., 0].astype(float), 1)[:12, :12, :12]
    gradient = 2 * (exact * shifted).sum()

    @jax.jit
    def both(kernel, x):
        def loss(kernel):
            out = conv3d(x, kernel)
            return (out**2).sum(), out

        (_, out), of_kernel = jax.value_and_grad(loss, has_aux=True)(kernel)
        return out, of_kernel

    lines, problems = [], []
    for device in jax.local_devices():
        begin = time.perf_counter()
        out, of_kernel = jax.device_get(both(*jax.device_put((kernel, x), device)))
        seconds = time.perf_counter() - begin
        worst = np.abs(out[0, ..., 0] - exact).max() / np.abs(exact).max()
        off = abs(of_kernel[0, 0, 0, 0, 0] - gradient) / abs(gradient)
        lines.append(
            f"{device.platform} {device.id}: a convolution within {worst:.0e}, its gradient within "
            f"{off:.0e} of NumPy, in {seconds:.1f} s"
        )
        # TF32, which GPUs may compute in, is right to three digits.
        if not (worst < 5e-3 and off < 5e-3):
            problems.append(f"{device} computes wrongly: look at its driver and memory")
    return lines, problems
