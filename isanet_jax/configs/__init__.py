"""The configs: in an installed package they stand here, in a clone in its folder `configs/`."""

from pathlib import Path

if not (Path(__file__).parent / "hecktor.py").exists():
    __path__ = [str(Path(__file__).parents[2] / "configs")]
