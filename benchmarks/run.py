"""Runs every benchmark and writes one Markdown file: python benchmarks/run.py [--output FILE].

Half an hour on two CPU cores, most of it compilation and the native 3D step. StepCost
requirements-bench.txt. Nothing else should run meanwhile.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = (
    "step",
    "step --size 144 --width 16 --kinds forward --without-native",  # as in a prediction
    "pipeline",
    "metrics",
    "startup",
    "convolution",
    "case_format",
)


def main():
    """Runs them one after the other; one that fails is reported and does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks.md"))
    args = parser.parse_args()
    lines = [f"# Benchmarks on {os.cpu_count()} cores ({platform.machine()}, {_processor()})", ""]
    for name in BENCHMARKS:
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", *f"benchmarks.{name}".split()]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
        )
        table = [line for line in done.stdout.splitlines() if line.startswith("|")]
        failed = [] if done.returncode == 0 else ["", "Failed:", done.stderr[-500:]]
        lines += [f"## python -m benchmarks.{name}", "", *table, *failed, ""]
        args.output.write_text("\n".join(lines), encoding="utf-8")
    print(f"written to {args.output}")


def _processor():
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
