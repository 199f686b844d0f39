"""The command line of prepare.py."""

import argparse
import os

from isanet_jax.cases.grid import FITS
from isanet_jax.cases.prepare import Settings, prepare, prepare_phantoms
from isanet_jax.errors import ConfigError
from isanet_jax.scans import sources

_READERS = {
    "hecktor": (sources.read_hecktor, "HECKTOR 2020 or 2021: CT, PET, GTVt and the boxes' CSV"),
    "sts": (sources.read_sts, "soft-tissue sarcoma, NIfTI copy of the IBSI (STS_001/...)"),
    "table": (sources.read_table, "your own files: CSV with case, ct, pet, label[, patient, ...]"),
}
# The paper's 1 mm boxes for HECKTOR; elsewhere tumours may be longer than 144 mm.
_DEFAULT_FIT = {"hecktor": "crop", "sts": "resize", "table": "resize"}


def parser() -> argparse.ArgumentParser:
    """The arguments of prepare.py."""
    root = argparse.ArgumentParser(description="Prepares raw PET/CT scans for training.")
    commands = root.add_subparsers(dest="layout", required=True)
    for name, (_, text) in _READERS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--source", required=True, help="folder (table: the CSV file)")
        _add_common(command, size=144)
        command.add_argument(
            "--fit",
            choices=FITS,
            default=_DEFAULT_FIT[name],
            help="crop keeps --spacing-mm, resize keeps the field of view (default: %(default)s)",
        )
        command.add_argument(
            "--spacing-mm", type=float, default=1.0, help="voxel size of crop (default: 1)"
        )
        command.add_argument(
            "--label-values",
            default="1",
            metavar="V[,V]",
            help="values of the label that are tumour (default: 1)",
        )
        command.add_argument(
            "--skip-bad",
            action="store_true",
            help="leave out cases that fail, and list them in the manifest",
        )
    command = commands.add_parser("phantom", help="synthetic patients, no data needed")
    command.add_argument("--cases", type=int, default=24, help="default: %(default)s")
    _add_common(command, size=48)
    return root


def _add_common(command, *, size):
    command.add_argument("--output", required=True, help="folder of the prepared cases")
    command.add_argument(
        "--size", type=int, default=size, help="voxels per axis (default: %(default)s)"
    )
    command.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="of folds and phantoms (default: 0)")
    command.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)"
    )


def main(arguments=None) -> None:
    """Runs prepare.py."""
    args = parser().parse_args(arguments)
    if args.layout == "phantom":
        entries = prepare_phantoms(
            args.output,
            cases=args.cases,
            size=args.size,
            seed=args.seed,
            folds=args.folds,
            workers=args.workers,
        )
    else:
        values = parse_label_values(args.label_values)
        settings = Settings(
            size=args.size, fit=args.fit, spacing_mm=args.spacing_mm, label_values=values
        )
        scans = _READERS[args.layout][0](args.source)
        entries = prepare(
            scans,
            settings,
            args.output,
            kind=args.layout,
            folds=args.folds,
            seed=args.seed,
            workers=args.workers,
            skip_bad=args.skip_bad,
        )
    _summarise(entries, args.output)


def parse_label_values(text: str) -> tuple[int, ...]:
    """Reads "1" or "1,2". Raises ConfigError on anything else."""
    try:
        return tuple(int(value) for value in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--label-values is {text!r}; give whole numbers, as in 1,2") from error


def _summarise(entries, output):
    spacings = [s for entry in entries for s in entry["spacing_mm"]]
    empty = sum(entry["volume_ml"] == 0 for entry in entries)
    patients = len({entry["patient"] for entry in entries})
    print(
        f"{len(entries)} cases of {patients} patients in {output}: spacing "
        f"{min(spacings):.2f} to {max(spacings):.2f} mm, {empty} with an empty label, "
        f"{sum(bool(entry['warnings']) for entry in entries)} with warnings"
    )
