"""The command line of isanet lesions."""

from pathlib import Path

import numpy as np

from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_new, write_csv
from isanet_jax.quantify import lesions as of_lesion
from isanet_jax.quantify import patients as of_patient
from isanet_jax.quantify import reference
from isanet_jax.quantify.person import Person

_CASE = "scan"


def parser() -> Parser:
    """The arguments of isanet lesions."""
    root = Parser(
        description="Measures a mask from anywhere on a PET: each lesion's MTV, TLG, SUVmax, mean "
        "and peak, and the patient's total burden, Dmax, PERCIST's threshold, Deauville's score.",
    )
    root.add_argument(
        "--mask", required=True, help="NIfTI, whose values are classes; or a DICOM SEG or RTSTRUCT"
    )
    root.add_argument("--pet", required=True, help="NIfTI in SUV; or a DICOM folder or zip")
    root.add_argument(
        "-o", "--output", help="folder for lesions.csv and patients.csv (default: they are shown)"
    )
    root.add_argument("--name", default=_CASE, help="of the scan, in the tables")
    for name, what in (
        ("liver", "a sphere of 3 cm in its right lobe"),
        ("blood", "a cylinder of 1 cm x 2 cm in the descending aorta"),
    ):
        root.add_argument(
            f"--{name}",
            nargs="+",
            metavar=("X", "Y Z"),
            help=f"reference region: {what} around a point, LPS mm; or a NIfTI mask",
        )
    root.add_argument("--weight-kg", type=float, help="for SUL; of DICOM as its header says")
    root.add_argument("--height-cm", type=float, help="for SUL and SDmax")
    root.add_argument("--sex", choices=("M", "F"), help="for SUL")
    root.add_argument(
        "--features",
        action="store_true",
        help="also radiomics of each class, features.csv, by the package mirp",
    )
    root.add_argument("--overwrite", action="store_true", help="replace existing files")
    return root


def main(arguments=None) -> None:
    """Runs isanet lesions."""
    args = parser().parse_args(arguments)
    if args.features and not args.output:
        raise ConfigError("--features writes a table; give --output")
    names = ["lesions.csv", "patients.csv", *(["features.csv"] if args.features else [])]
    paths = {name: Path(args.output) / name for name in names} if args.output else {}
    for path in paths.values():
        check_new(path, overwrite=args.overwrite)
    pet, person, series = _read_pet(args.pet)
    given = Person(args.weight_kg, args.height_cm and args.height_cm / 100, args.sex)
    person = Person(*(a if a is not None else b for a, b in zip(given, person, strict=True)))
    masks = _read_masks(args.mask, series)
    references = {
        name: reference.of_words(pet, name, words)
        for name in reference.REGIONS
        if (words := getattr(args, name))
    }
    lesions, patients = [], []
    for name, mask in masks.items():
        rows = of_lesion.lesions(mask, pet, person)
        label = {"case": args.name} | ({"class": name} if len(masks) > 1 else {})
        lesions += [label | row for row in rows]
        patients.append(label | of_patient.patient(rows, person, references))
    tables = {
        "lesions.csv": (lesions, of_lesion.COLUMNS),
        "patients.csv": (patients, of_patient.COLUMNS),
    }
    for file, (rows, columns) in tables.items():
        used = [name for name in columns if any(row.get(name) is not None for row in rows)]
        if paths:
            write_csv(paths[file], rows, used or list(columns))
            print(f"{paths[file]}: {len(rows)} row(s)")
        else:
            print(_shown(rows, used))
    if args.features:
        from isanet_jax.quantify.radiomics import features

        rows = [{"case": args.name, "class": n, **features(m, pet)} for n, m in masks.items()]
        write_csv(paths["features.csv"], rows)
        print(f"{paths['features.csv']}: {len(rows[0]) - 2} features")


def _read_pet(place):
    """(PET, the patient's body, series that a mask may be drawn on)."""
    from isanet_jax.dicom import is_dicom
    from isanet_jax.nifti import read_volume

    if not is_dicom(place):
        return read_volume(place), Person(), []
    from isanet_jax.dicom.image import read_image
    from isanet_jax.dicom.series import find_series
    from isanet_jax.dicom.studies import choose_from
    from isanet_jax.quantify.person import person_of

    chosen, notes = choose_from({"pet": Path(place)}, {"pet": "pet"})
    volume, headers = read_image(chosen["pet"], notes=notes)
    for text in notes:
        print(f"warning: {text}")
    return volume, person_of(headers[0]), find_series(place)[0]


def _read_masks(place, series):
    """Class -> bool volume."""
    from isanet_jax.dicom import is_dicom
    from isanet_jax.nifti import read_volume
    from isanet_jax.volume import Volume

    if is_dicom(place):
        from isanet_jax.dicom.convert import masks_of

        return masks_of(Path(place), series)
    label = read_volume(place)
    values = [int(value) for value in np.unique(label.data) if value]
    if len(values) > 1:
        return {f"label_{v}": Volume(label.data == v, label.affine) for v in values}
    return {"tumour": Volume(label.data != 0, label.affine)}


def _shown(rows, columns):
    """A table as text."""
    if not rows:
        return "no lesions"
    cells = [columns]
    for row in rows:
        values = (row.get(name, "") for name in columns)
        cells.append([f"{v:.2f}" if isinstance(v, float) else str(v) for v in values])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells
    )
