"""`isanet prepare` of many synthetic scans: one process, two, two parts, and a Dask cluster.

python -m benchmarks.machines --scans 200
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from isanet_jax.datasets.phantom import make_phantom, write_phantoms


def command(*arguments):
    """A program's words."""
    return [sys.executable, "-m", "isanet_jax", "prepare", "table", "--size", "48", "--fit", "crop",
            "--spacing-mm", "4", *map(str, arguments)]  # fmt: skip


def seconds(*commands):
    """Of programs that run together."""
    started = time.perf_counter()
    running = [
        subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for one in commands
    ]
    if any(one.wait() for one in running):
        raise SystemExit("one of them failed")
    return time.perf_counter() - started


def main():
    """Prints a line for each way."""
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=200)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    table = write_phantoms(folder / "scans", cases=args.scans, seed=0, make=make_phantom)
    source = ["--source", table]

    def out(name):
        return ["--output", folder / name]

    times = {
        "1 worker": seconds(command(*source, *out("a"), "--workers", 1)),
        "2 workers": seconds(command(*source, *out("b"), "--workers", 2)),
        "2 parts of 1 worker": seconds(
            *(command(*source, *out("c"), "--workers", 1, "--part", f"{n}/2") for n in (1, 2))
        ),
    }
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = ["--cluster", cluster.scheduler_address]
        times["Dask, 2 workers"] = seconds(command(*source, *out("d"), *address))
    first = times["1 worker"]
    for name, taken in times.items():
        print(f"{name}: {taken:.1f} s, {first / taken:.2f} times as fast as 1 worker")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
