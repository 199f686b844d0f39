"""Start-up of the programs and of a training: python -m benchmarks.startup.

The training is the demo's, on phantoms, with an empty compilation cache and then again with what
the first start left there. Seconds from the command to the first line of metrics.jsonl.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ("prepare", "train", "eval", "predict", "compare", "plan")


def seconds_of_help(program):
    """Of `python PROGRAM.py --help`, the median of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        command = [sys.executable, f"{program}.py", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return sorted(times)[1]


def seconds_to_first_step(folder, cache):
    """Of a training that then is stopped."""
    run = folder / f"run{time.time_ns()}"
    command = [
        sys.executable, "train.py", "--config", "configs/phantom.py", "--workdir", str(run),
        f"--config.data.cases={folder / 'cases'}",
    ]  # fmt: skip
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = run / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        time.sleep(0.05)
    took = time.perf_counter() - started
    process.terminate()
    process.wait()
    return took


def main():
    """Prints a Markdown table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| start | s |\n|---|---|")
    for program in PROGRAMS:
        print(f"| {program}.py --help | {seconds_of_help(program):.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds_to_first_step(folder, folder / "warm-up")  # makes the phantoms
        for start in ("first", "second"):
            took = seconds_to_first_step(folder, folder / "cache")
            print(f"| {start} start of the demo's training, to its first step | {took:.1f} |")


if __name__ == "__main__":
    main()
