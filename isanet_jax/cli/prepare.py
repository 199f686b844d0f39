"""The command line of isanet prepare."""

import sys
from functools import partial
from pathlib import Path

from isanet_jax import api, datasets
from isanet_jax.arguments import Parser, add_machines
from isanet_jax.cases.grid import FITS
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare_cohort import prepare_phantoms
from isanet_jax.classes import parse_code, split_classes
from isanet_jax.datasets import DATASETS, TARGETS
from isanet_jax.datasets.layout import PET_CT, Options
from isanet_jax.errors import ConfigError
from isanet_jax.files import check_folder
from isanet_jax.kinds import parse_images
from isanet_jax.locks import only_here
from isanet_jax.machine import usable_cores
from isanet_jax.volume import VOXEL_MM


def parser() -> Parser:
    """The arguments of isanet prepare."""
    root = Parser(description="Prepares raw scans, PET/CT or others, for training.")
    commands = root.add_subparsers(dest="layout", required=True)
    for name, dataset in DATASETS.items():
        text = dataset.description
        command = commands.add_parser(name, help=text, description=text)
        _add_source(command, required=name != "sts")
        _add_preparation(command)
        if name == "sts":
            command.add_argument(
                "--download",
                action="store_true",
                help="fetch the public cohort (51 patients) into --source, default OUTPUT/raw",
            )
            command.add_argument("--url", help="fetch from another copy of the repository's files")
    text = "recognises which of these layouts a source has, and prepares it"
    command = commands.add_parser("auto", help=text, description=text)
    _add_source(command)
    _add_preparation(command)
    text = "reports what is wrong with a source, before hours are spent; status 1 on errors"
    command = commands.add_parser("check", help=text, description=text)
    _add_source(command)
    command.add_argument(
        "--layout", dest="layout_name", choices=DATASETS, help="default: recognised"
    )
    command.add_argument("--output", default="check", help="folder of check.html and check.csv")
    _add_workers(command)
    text = "one CT, PET and RTSTRUCT or SEG to NIfTI: ct_hu, pet_suv and mask.nii.gz"
    command = commands.add_parser("convert", help=text, description=text)
    command.add_argument("--ct", help="folder or zip of a DICOM CT series")
    command.add_argument("--pet", help="folder or zip of a DICOM PET series")
    command.add_argument("--rtstruct", help="RTSTRUCT or SEG; alone, its image is looked for near")
    command.add_argument(
        "--roi",
        action="append",
        help="name (or number) of its region, exactly (default: its only one); may be given again",
    )
    command.add_argument("--unite", action="store_true", help="take all regions of --roi together")
    command.add_argument("--output", required=True, help="folder of the NIfTI files")
    command = commands.add_parser("phantom", help="synthetic patients, no data needed")
    command.add_argument("--cases", type=int, default=24, help="default: %(default)s")
    command.add_argument(
        "--kind",
        choices=("head", "nodes", "body"),
        default="head",
        help="head: one class in a small field; nodes: a primary tumour and lymph nodes there, two "
        "classes; body: whole bodies with lesions of two classes, a fifth of them without any "
        "(default: head)",
    )
    _add_common(command, size=48)
    return root


def _add_source(command, *, required=True):
    command.add_argument("--source", required=required, help="folder (table: the CSV file)")
    tumour = command.add_mutually_exclusive_group()
    tumour.add_argument(
        "--label-values",
        metavar="V[,V]",
        help="values of the label that are tumour, one class (default: 1; nnunet: the classes of "
        "dataset.json)",
    )
    tumour.add_argument(
        "--target",
        choices=TARGETS,
        help="of HECKTOR 2022 and later: primary tumours, nodes or both, as one class (default: "
        "gtvp)",
    )
    tumour.add_argument(
        "--classes",
        metavar="NAME=V[,V]",
        nargs="+",
        help="several classes by name, as in gtvp=1 gtvn=2; they may overlap: wider ones first. Of "
        "DICOM, names of regions, as in gtvp=GTVp gtvn=GTVn1,GTVn2: those that a study has, united",
    )
    command.add_argument(
        "--codes",
        metavar="NAME=SCHEME:VALUE:MEANING",
        nargs="+",
        help="what a class's DICOM segments say that it is, as in 'gtvp=SCT:86049000:Neoplasm, "
        "Primary' (default: of HECKTOR's gtvp and gtvn their own, else SCT:108369006:Neoplasm)",
    )
    command.add_argument(
        "--ignore", metavar="V[,V]", help="values of the label to leave out of losses and metrics"
    )
    command.add_argument(
        "--images",
        metavar="NAME[:KIND],...",
        help="the images of each case, as in ct,pet,mr_t1 (table: its columns; nnunet: its "
        "channels; sts: ct, pet, mr_t1; dicom: MR by its description). Kinds are ct, pet, mr and "
        "other; most names say theirs. Predictions are on the first one's grid (default: ct,pet)",
    )
    command.add_argument(
        "--roi",
        metavar="NAME",
        action="append",
        help="of DICOM: the region's name, exactly; may be given again, or be several names with "
        "commas between: the first that a study has counts",
    )
    command.add_argument(
        "--unite",
        action="store_true",
        help="of DICOM: all regions of --roi together are the tumour",
    )
    command.add_argument(
        "--series",
        metavar="UID",
        action="append",
        default=[],
        help="of DICOM: the Series Instance UID to take where several would do; may be given again",
    )
    command.add_argument(
        "--keep-identity",
        action="store_true",
        help="of DICOM: name cases by Patient ID, also where it is not marked as de-identified",
    )


def _add_preparation(command):
    _add_common(command, size=144)
    command.add_argument(
        "--nifti",
        action="store_true",
        help="of DICOM: also write each study as NIfTI, into OUTPUT/nifti",
    )
    command.add_argument(
        "--fit",
        choices=FITS,
        help="crop: --size voxels of --spacing-mm; resize: the field of view in --size voxels; "
        "whole: the body in voxels of --spacing-mm, of any shape (default: hecktor crop, others "
        "resize)",
    )
    command.add_argument(
        "--spacing-mm",
        type=_mm,
        nargs="+",
        default=[1.0],
        metavar="MM",
        help="voxel size of crop and whole: one number, or three: right-left, front-back, "
        "feet-head; or auto: the median of the first image's, as in nnU-Net (default: 1)",
    )
    add_machines(command, "cases")
    command.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out cases that fail, and list them in the manifest",
    )


def _mm(text):
    return text if text == "auto" else float(text)


def _add_common(command, *, size):
    command.add_argument("--output", required=True, help="folder of the prepared cases")
    command.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[size],
        metavar="N",
        help=f"voxels per axis: one number, or three: feet-head, front-back, right-left (default: "
        f"{size})",
    )
    command.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="of folds and phantoms (default: 0)")
    command.add_argument(
        "--refold",
        action="store_true",
        help="deal all patients into folds anew; else those who are in --output keep theirs",
    )
    _add_workers(command)


def _add_workers(command):
    command.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes (default: one per core)"
    )


def main(arguments=None) -> None:
    """Runs isanet prepare."""
    args = parser().parse_args(arguments)
    _check_arguments(args)
    if args.layout == "convert":
        _convert(args)
    elif args.layout == "check":
        _check(args)
    elif args.layout == "phantom":
        with only_here(args.output, "prepare", "makes cases there"):
            _make_phantoms(args)
    else:
        if args.layout == "sts":
            _download(args)
        _prepare(args)


def _check_arguments(args):
    """Refuses what cannot work before any file is read."""
    given = vars(args)
    for name in ("size", "spacing_mm"):
        if given.get(name) is not None and len(given[name]) not in (1, 3):
            raise ConfigError(
                f"--{name.replace('_', '-')} has {len(given[name])} numbers; give one or three"
            )
    if given.get("size") and min(given["size"]) < 1:
        raise ConfigError(f"--size is {min(given['size'])}; give 1 or more")
    for name, least in (("workers", 1), ("folds", 2), ("cases", 2), ("seed", 0)):
        if given.get(name) is not None and given[name] < least:
            raise ConfigError(f"--{name} is {given[name]}; give {least} or more")
    low, high = VOXEL_MM
    for spacing_mm in given.get("spacing_mm") or ():
        if spacing_mm == "auto":
            if len(given["spacing_mm"]) > 1:
                raise ConfigError("--spacing-mm is auto and numbers; give one of them")
        elif not low <= spacing_mm <= high:
            raise ConfigError(f"--spacing-mm is {spacing_mm:g}; give {low:g} to {high:g}")
    output, source = Path(args.output), given.get("source")
    check_folder(output)
    if source and output.resolve() == Path(source).resolve():
        raise ConfigError(f"--output {output} is the source; name a folder of its own")


def _make_phantoms(args):
    entries = prepare_phantoms(
        args.output,
        cases=args.cases,
        size=_one_or_three(args.size),
        kind=args.kind,
        seed=args.seed,
        folds=args.folds,
        workers=args.workers,
        refold=args.refold,
    )
    _summarise(entries, args.output)


def _prepare(args):
    entries = api.prepare(
        args.source,
        args.output,
        layout=None if args.layout == "auto" else args.layout,
        size=_one_or_three(args.size),
        fit=args.fit,
        spacing_mm=_one_or_three(args.spacing_mm),
        images=_images(args),
        label_values=parse_label_values(args.label_values),
        **_classes(args),
        options=_options(args),
        folds=args.folds,
        seed=args.seed,
        workers=args.workers,
        skip_bad=args.skip_bad,
        refold=args.refold,
        copies=args.nifti,
        part=args.part,
        cluster=args.cluster,
    )
    if entries:
        _summarise(entries, args.output)
    else:
        print("the part that makes the last case writes the manifest")


def _options(args):
    """What the arguments ask of DICOM."""
    from tqdm import tqdm

    return Options(
        images=_images(args),
        regions=_regions(args),
        unite=args.unite,
        classes=split_classes(args.classes or ()),
        series=tuple(args.series),
        keep_identity=args.keep_identity,
        progress=partial(tqdm, unit="file", disable=None, file=sys.stderr),
    )


def _images(args):
    return parse_images(args.images) if args.images else dict(PET_CT)


def _classes(args):
    """What the arguments say of labels, besides the values of a single class."""
    return {
        "target": args.target,
        "classes": split_classes(args.classes or ()),
        "ignore": parse_label_values(args.ignore, "--ignore") or (),
        "codes": {
            name: parse_code(code)
            for name, _, code in (text.partition("=") for text in args.codes or ())
        },
    }


def _one_or_three(numbers):
    """The number of a list of one, or the three of a list as a tuple."""
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _regions(args):
    """The names to look for, in their order: each as it was given, then its parts at commas."""
    if args.unite:
        if not args.roi:
            raise ConfigError("--unite needs --roi, as in --roi A --roi B --unite")
        return tuple(args.roi)
    names = []
    for text in args.roi or ():
        names += [text, *(part for part in text.split(",") if part and part != text)]
    return tuple(dict.fromkeys(names))


def _download(args):
    """Fetches the STS cohort where asked for; sets the source that it then is."""
    from isanet_jax.datasets import download

    if args.download:
        args.source = args.source or str(Path(args.output) / "raw")
        print(download.STS_NOTICE, flush=True)
        with only_here(args.source, "download", "downloads into it"):
            download.download(args.source, download.sts_files(), url=args.url or download.STS_URL)
    elif not args.source:
        raise ConfigError("give --source, or --download to fetch the public cohort")


def _convert(args):
    from isanet_jax.dicom.convert import convert_files

    if not (args.ct or args.pet or args.rtstruct):
        raise ConfigError("give --ct, --pet or --rtstruct, or several of them")
    lines = convert_files(
        args.output,
        ct=args.ct,
        pet=args.pet,
        rtstruct=args.rtstruct,
        regions=_regions(args),
        unite=args.unite,
    )
    print("\n".join(lines))


def _check(args):
    from isanet_jax.cases import check

    layout, found = datasets.read(args.source, args.layout_name, _options(args))
    classes = datasets.classes_of(
        DATASETS[layout],
        Path(args.source),
        found.scans,
        values=parse_label_values(args.label_values),
        **_classes(args),
    )
    settings = Settings(images=_images(args), classes=classes)
    log = Path(args.output) / "errors.log"
    rows = check.check(
        found.scans, settings, workers=args.workers, failures=dict(found.failures), log=log
    )
    print(check.table_of(rows, settings.images))
    of_all = [f"warning: {text}" for text in check.warnings_of_all(rows)]
    for text in of_all:
        print(text)
    table = check.write_table(rows, args.output, settings.images)
    failed = sum(bool(row["errors"]) for row in rows)
    doubtful = sum(bool(row["warnings"]) for row in rows)
    counts = f"{len(rows)} cases ({layout}), {failed} with errors, {doubtful} with warnings"
    path = Path(args.output) / "check.html"
    _write_page(path, found.scans, rows, settings, title=counts, lines=of_all, table=table)
    print(f"{counts}: {path}")
    if failed:
        sys.exit(1)


_PICTURED = 12  # cases that the page of a check shows


def _write_page(path, scans, rows, settings, *, title, lines, table):
    """The page of `prepare check`: the table, and the cases to look through, the worst first."""
    from isanet_jax.cases.check import read_for_check
    from isanet_jax.cases.grid import resample, same_grid
    from isanet_jax.evaluation.page import Page, pack_scan

    trouble = {row["case"]: 100 * len(row["errors"]) + len(row["warnings"]) for row in rows}
    page, kinds = Page(_PICTURED), settings.images
    for scan in sorted(scans, key=lambda scan: -trouble[scan.case])[:_PICTURED]:
        try:
            volumes, label = read_for_check(scan, settings, {"errors": [], "warnings": []})
            if len(volumes) < len(kinds):
                continue  # the table says what is wrong with the others
            first, references = next(iter(volumes.values())), {}
            if label is not None:
                place = first.data.shape, first.affine
                mask = (
                    label.data
                    if same_grid(label, first)
                    else resample(label, *place, order=0, fill=False)
                )
                references = {"label": mask > 0}
            content = pack_scan(volumes, kinds, {}, references=references)
        except Exception as error:  # a picture less: the check itself has said what there is
            print(f"note: {scan.case} is not shown ({type(error).__name__})")
            continue
        page.add(scan.case, -trouble[scan.case], content)
    lines = [*lines, f"Cases with errors and warnings come first; {_PICTURED} at most are shown."]
    page.write(path, title=title, lines=lines, tables={"Cases": table})


def parse_label_values(text: str | None, flag="--label-values") -> tuple[int, ...] | None:
    """Reads "1" or "1,2"; None of None. Raises ConfigError on anything else, naming the flag."""
    try:
        return text and tuple(int(value) for value in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}; give whole numbers, as in 1,2") from error


def _summarise(entries, output):
    spacings = [s for entry in entries for s in entry["spacing_mm"]]
    empty = sum(entry["volume_ml"] == 0 for entry in entries)
    lost = sum(entry["volume_case_ml"] == 0 for entry in entries) - empty
    patients = len({entry["patient"] for entry in entries})
    print(
        f"{len(entries)} cases of {patients} patients in {output}: spacing "
        f"{min(spacings):.2f} to {max(spacings):.2f} mm, {empty} with an empty label, "
        + (f"{lost} whose tumour has no voxel on the case's grid, " * bool(lost))
        + f"{sum(bool(entry['warnings']) for entry in entries)} with warnings"
    )
