"""The command line of isanet predict."""

import csv
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from isanet_jax import models
from isanet_jax.arguments import Parser, add_machines
from isanet_jax.datasets.layout import PET_CT, Scan, box_from_lps
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError, DataError, failure_of, some
from isanet_jax.files import check_new, is_bundle
from isanet_jax.nifti import NIFTI_SUFFIXES, check_output
from isanet_jax.prediction.formats import suffixes
from isanet_jax.prediction.write import MAPS
from isanet_jax.runtime import say_devices
from isanet_jax.settings import read_stored


def parser() -> Parser:
    """The arguments of isanet predict."""
    root = Parser(
        description="Predicts tumour masks on each CT's own grid, as NIfTI or DICOM, and measures "
        "them. With --input, OUT becomes a folder with, for each scan, its mask (NIfTI; SEG, "
        "RTSTRUCT and SR where the CT is DICOM), and for all of them lesions.csv, patients.csv and "
        "report.html; what is there already is not done again.",
    )
    root.add_argument(
        "-i",
        "--input",
        nargs="+",
        metavar="IN",
        help="scans: a DICOM folder or archive of one or many studies, a folder of NIfTI files "
        "(nnU-Net's names, too), a table, or the images of one scan one after another",
    )
    root.add_argument(
        "--model",
        "--workdir",
        dest="workdir",
        type=models.resolve,
        required=True,
        nargs="+",
        help="name of a model (isanet models), file of isanet bundle, or folder of a trained run; "
        "of several, the mean of their probabilities counts",
    )
    root.add_argument(
        "--dry-run", action="store_true", help="with --input: list what would be done, and end"
    )
    add_machines(root, "scans of --input")
    root.add_argument(
        "--checkpoint",
        default="best",
        choices=("best", "latest"),
        help="of each run: the one with the best validation DSC, or the last one (default: best)",
    )
    root.add_argument("--ct", help="CT: NIfTI in HU, or a DICOM folder or zip")
    root.add_argument("--pet", help="PET: NIfTI in SUV, or a DICOM folder or zip")
    root.add_argument(
        "--series",
        metavar="UID",
        action="append",
        default=[],
        help="of DICOM: the series to take where several would do; may be given again",
    )
    root.add_argument(
        "--image",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="another image that the run was trained on, NIfTI; may be given again",
    )
    root.add_argument(
        "--table", help="CSV with case and a column per image (case, ct, pet): many cases in one go"
    )
    root.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder of the results; without --input and --table: mask.nii.gz",
    )
    root.add_argument(
        "--format",
        help=f"formats of the masks, comma-separated: {', '.join(suffixes())}; the DICOM ones need "
        "the CT as DICOM, and stand beside the NIfTI with other endings (default: nifti; with "
        "--input all that there can be)",
    )
    root.add_argument(
        "--keep-identity",
        action="store_true",
        help="copy the patient's name, IDs and dates from the CT into DICOM outputs",
    )
    root.add_argument(
        "--class",
        dest="of_class",
        metavar="NAME",
        help="write this class alone, as 1 (default: a mask of all, each with its value)",
    )
    root.add_argument(
        "--lesions", help="also write a table of the lesions here, CSV: MTV, SUV, TLG"
    )
    root.add_argument(
        "--batch",
        type=int,
        default=1,
        help="windows computed together on each device, where a scan is larger than the network "
        "(default: 1)",
    )
    root.add_argument(
        "--probability",
        help="also write the probability here (of --class, else of the likeliest class); a folder "
        "with --table",
    )
    root.add_argument(
        "--uncertainty",
        help="also write the entropy of the probability (bits, 0 to 1); a folder with --table",
    )
    root.add_argument(
        "--report", help="also write a page, .html, to look through the scans and what was found"
    )
    root.add_argument(
        "--box",
        type=float,
        nargs=6,
        metavar=("X1", "X2", "Y1", "Y2", "Z1", "Z2"),
        help="region of interest, LPS mm as in HECKTOR's CSV (a table has columns)",
    )
    root.add_argument(
        "--references",
        metavar="TABLE",
        help="with --input: CSV of reference regions, case,liver,blood, each X Y Z in LPS mm or a "
        "mask's file, for PERCIST's threshold and Deauville's score",
    )
    root.add_argument(
        "--rules", help="file of isanet tune: threshold, smallest lesion, ... of each class"
    )
    root.add_argument(
        "--half",
        action="store_true",
        help="compute in bfloat16: half the memory; probabilities differ by about a hundredth",
    )
    existing = root.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace existing files")
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="with --table: skip cases whose mask exists already",
    )
    return root


def main(arguments=None) -> None:
    """Runs isanet predict."""
    args = parser().parse_args(arguments)
    if args.input:
        _predict_folder(args)
        return
    if args.dry_run or args.part or args.cluster or args.references:
        raise ConfigError("--dry-run, --part, --cluster and --references belong to --input")
    args.format = args.format or "nifti"
    images = _images_of(args.workdir[0])
    jobs = _jobs(args, images)
    if not jobs:
        print("every mask is there already")
        return
    _check_outputs(args, jobs)
    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; give the number of windows, 1 or more")
    table = _LesionTable(args, {scan.case for scan, _ in jobs})
    log = (Path(args.output) if args.table else Path(args.output).parent) / "errors.log"

    from isanet_jax.prediction.predictor import Predictor  # imports JAX: after the checks

    say_devices()
    predictor = Predictor(
        args.workdir, half=args.half, checkpoint=args.checkpoint, rules=args.rules
    )
    _check_class(args, predictor)
    page = _Report(args.report) if args.report else None
    failures, started, number = [], time.perf_counter(), 0
    for start in range(0, len(jobs), predictor.devices):
        group = jobs[start : start + predictor.devices]
        for scan, outcome in _predict_group(predictor, group, args, table, page):
            number += 1
            if isinstance(outcome, Exception):
                error = failure_of(outcome, scan.case, log)
                failures.append(str(error))
                print(f"error: {error}", file=sys.stderr, flush=True)
                continue
            print(f"[{number}/{len(jobs)}] {outcome}", flush=True)
    if page is not None:
        page.write()
    if len(jobs) > 1:
        seconds = time.perf_counter() - started
        print(
            f"{len(jobs)} cases in {seconds:.1f} s, compilation included "
            f"({len(jobs) / seconds:.2f} cases/s){_peak_memory()}"
        )
    if failures:
        raise DataError(
            f"{len(failures)} of {len(jobs)} cases failed (see above)",
            action="The others are written; continue with --skip-existing"
            if len(jobs) > 1
            else None,
        )


_ALONE = ("ct", "pet", "image", "table", "lesions", "probability", "uncertainty", "report", "box")


def _predict_folder(args):
    """`--input`: many scans into a folder."""
    from isanet_jax.parallel import part_of
    from isanet_jax.prediction.sources import find_scans

    given = [f"--{name}" for name in _ALONE if getattr(args, name)]
    if given:
        raise ConfigError(
            f"{', '.join(given)} and --input: of --input, lesions.csv, patients.csv and "
            "report.html are always written; scans with a box need --table"
        )
    formats = _formats(args.format) if args.format else None
    output = Path(args.output)
    if output.is_file() or output.name.endswith(NIFTI_SUFFIXES):
        raise ConfigError(f"--output is {output}; with --input it is a folder")
    inputs = [Path(path).resolve() for path in args.input]
    if any(output.resolve() == path or path in output.resolve().parents for path in inputs):
        raise ConfigError(f"{output} lies in --input; give the results a folder of their own")
    kinds = _images_of(args.workdir[0])

    def find():
        return find_scans(
            args.input, kinds, series=args.series, keep_identity=args.keep_identity, progress=_files
        )

    found, predictor = (find(), None) if args.dry_run else _found_and_loaded(find, args)
    regions = _regions(args, found.scans, kinds)
    scans = part_of(found.scans, args.part)
    for note in found.notes:
        print(note)
    if args.dry_run:
        _list_scans(scans, found.failures, formats, output)
        return

    from isanet_jax.evaluation.predicted import PATIENTS, REPORT, pack, write_tables
    from isanet_jax.prediction import many

    _check_class(args, predictor)
    folder = many.Folder(output)
    many.keep_failures(folder, found.failures)
    failures = [f"{case}: {reason}" for case, reason in found.failures.items()]
    for text in failures:
        print(f"error: {text}", file=sys.stderr, flush=True)
    started, number = time.perf_counter(), 0
    how = many.How(
        formats, args.keep_identity, args.overwrite, args.batch, pack, args.of_class, regions
    )
    outcomes = (
        _on_cluster(predictor, args, scans, folder, how)
        if args.cluster
        else many.predict_many(predictor, scans, folder, how)
    )
    try:
        for scan, outcome in outcomes:
            number += 1
            if isinstance(outcome, Exception):
                failures.append(str(outcome))
                print(f"error: {outcome}", file=sys.stderr, flush=True)
                continue
            for text in outcome["warnings"]:
                print(f"{scan.case}: {text}", flush=True)
            first = output / outcome["outputs"][0] if outcome["outputs"] else output
            print(f"[{number}/{len(scans)}] {first}: {_burden(outcome)}", flush=True)
    finally:
        write_tables(folder)
    done = len(scans) - number
    seconds = time.perf_counter() - started
    print(
        f"{number} scans in {seconds:.1f} s, compilation included{_peak_memory()}"
        + (f"; {done} were done before, or are another process's" if done else "")
    )
    print(f"{output / PATIENTS}, {output / REPORT}")
    if failures:
        raise DataError(
            f"{len(failures)} of {len(scans) + len(found.failures)} scans failed (see above)",
            action="The others are done; run the same command again to try these",
        )


def _regions(args, scans, kinds):
    """Case -> reference regions, of --references."""
    if not args.references:
        return {}
    from isanet_jax.quantify.reference import read_references

    if "pet" not in kinds.values():
        raise ConfigError("--references are of a PET, and this model needs none")
    regions = read_references(args.references)
    if unknown := sorted(set(regions) - {scan.case for scan in scans}):
        raise DataError(
            f"{some(unknown)}: no scan of --input is called so",
            file=args.references,
            wanted=f"some of {some(scan.case for scan in scans)}",
            action="--dry-run lists the scans",
        )
    return regions


def _found_and_loaded(find, args):
    """The scans, and the networks, which are loaded and compiled while files are looked at."""
    from concurrent.futures import ThreadPoolExecutor

    def load():
        from isanet_jax.prediction.predictor import Predictor  # imports JAX

        predictor = Predictor(
            args.workdir, half=args.half, checkpoint=args.checkpoint, rules=args.rules
        )
        predictor.compile()
        return predictor

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        found = find()
        predictor = loading.result()
    say_devices()
    return found, predictor


def _on_cluster(predictor, args, scans, folder, how):
    """As `many.predict_many`, by the workers of a Dask cluster."""
    from isanet_jax.parallel import on_cluster
    from isanet_jax.prediction import many

    todo = [scan for scan in scans if how.left(folder, scan, predictor.maker.digest)]
    model = [str(Path(workdir).resolve()) for workdir in args.workdir]
    rules = args.rules and str(Path(args.rules).resolve())
    loading = {"half": args.half, "checkpoint": args.checkpoint, "rules": rules}
    place = folder.path.resolve()
    one = partial(many.predict_one, model=model, loading=loading, folder=place, how=how)
    for scan, outcome in on_cluster(one, todo, args.cluster):
        try:
            yield scan, outcome() or folder.record(scan.case)
        except Exception as error:
            yield scan, error


def _files(total):
    from tqdm import tqdm

    return tqdm(total, unit="file", desc="reading headers", disable=None, leave=False)


def _burden(record):
    """A scan's result in a line."""
    rows = record["patients"]
    parts = []
    for row in rows:
        text = f"{row['class']}: " if len(rows) > 1 else ""
        text += f"{row['lesions']} lesion(s), {row['tmtv_ml']:.2f} ml"
        if "suv_max" in row:
            text += f", SUVmax {row['suv_max']:.2f}, TLG {row['tlg_g']:.1f} g"
        parts.append(text)
    return "; ".join(parts) if rows[0]["lesions"] else "EMPTY: no tumour found"


def _list_scans(scans, failures, formats, output):
    """What --dry-run says."""
    for scan in scans:
        what = scan.study.describe() if scan.study else ", ".join(map(str, scan.images.values()))
        print(f"{scan.case}: {what}")
    for case, reason in failures.items():
        print(f"{case}: cannot be predicted: {reason}")
    shown = ", ".join(formats) if formats else "nifti, and DICOM where the CT is DICOM"
    print(f"{len(scans)} scan(s) into {output} ({shown}); {len(failures)} cannot be")


def _formats(text):
    """The formats of --format."""
    formats = text.split(",")
    if [name for name in formats if name not in suffixes()]:
        raise ConfigError(f"--format is {text!r}; choose from {', '.join(suffixes())}")
    if "dicom-sr" in formats and "dicom-seg" not in formats:
        raise ConfigError(
            "--format dicom-sr refers to the segments of dicom-seg; give dicom-seg,dicom-sr"
        )
    return formats


def _check_class(args, predictor):
    if args.of_class and args.of_class not in predictor.classes:
        raise ConfigError(
            f"--class is {args.of_class!r}; this run has {', '.join(predictor.classes)}"
        )


def _peak_memory():
    """The host's, for the last line; "" on systems that do not say."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"; peak memory of the host {peak:.2f} GiB"


def _check_outputs(args, jobs):
    """Refuses outputs that exist, that are written twice, or that are inputs."""
    written = Counter(path.resolve() for _, paths in jobs for path in paths.values())
    lesions = [Path(path) for path in (args.lesions, args.report) if path]
    written.update(path.resolve() for path in lesions)
    inputs = {scan_path.resolve() for scan, _ in jobs for scan_path in scan.images.values()}
    inputs |= {Path(args.table).resolve()} if args.table else set()
    for path, count in written.items():
        if count > 1:
            raise ConfigError(f"two outputs would be written to {path}; give each its own place")
        if path in inputs or any(folder in path.parents for folder in inputs if folder.is_dir()):
            raise ConfigError(
                f"{path} would be written over an input, or into its folder; give the outputs a "
                "place of their own"
            )
    if args.report:
        if Path(args.report).suffix != ".html":
            raise ConfigError(f"--report is {args.report}; name a file that ends in .html")
        check_new(args.report, overwrite=args.overwrite)
    for kind, path in (item for _, paths in jobs for item in paths.items()):
        is_nifti = kind == "nifti" or kind in MAPS
        (check_output if is_nifti else check_new)(path, overwrite=args.overwrite)


def _images_of(workdir):
    """The images that a run takes, by name, from its config; CT and PET where there is none yet."""
    if is_bundle(workdir):
        from isanet_jax.runs.bundle import read_bundle  # imports JAX

        return read_stored(read_bundle(workdir).networks[0][0]["config"]).data.kinds
    try:
        config = json.loads((Path(workdir) / "config.json").read_text(encoding="utf-8"))
        return read_stored(config).data.kinds
    except (OSError, ValueError, ConfigError):
        return dict(PET_CT)  # what is wrong with the run is said when it is loaded


def _jobs(args, images):
    """(scan, {format of the mask, "probability" or "uncertainty": its path}) per case."""
    formats = _formats(args.format)
    maps = {k: Path(v) for k in MAPS if (v := getattr(args, k))}
    output = Path(args.output)
    if args.table:
        if args.ct or args.pet or args.image or args.box:
            raise ConfigError("give either --table, or --ct and --pet")
        jobs = []
        for scan in read_table(args.table, images=images, with_label=False):
            paths = {kind: place / f"{scan.case}.nii.gz" for kind, place in maps.items()}
            paths |= {kind: output / f"{scan.case}{suffixes()[kind]}" for kind in formats}
            if not (args.skip_existing and all(paths[kind].exists() for kind in formats)):
                jobs.append((scan, paths))
        return jobs
    given = dict(text.partition("=")[::2] for text in args.image)
    given |= {name: path for name in PET_CT if (path := getattr(args, name))}
    if given.keys() != images.keys() or not all(given.values()):
        flags = [f"--{n}" if n in PET_CT else f"--image {n}=FILE" for n in images]
        extra = [name for name in given if name not in images]
        raise ConfigError(
            f"give {' and '.join(flags)}, or --table"
            + (f"; the run was not trained on {', '.join(extra)}" if extra else "")
        )
    box_mm = box_from_lps(args.box) if args.box else None
    paths = {name: Path(given[name]) for name in images}
    scan = Scan("scan", paths, None, "scan", box_mm=box_mm)
    stem = output.name
    for suffix in (*NIFTI_SUFFIXES, *suffixes().values(), ".dcm"):
        stem = stem.removesuffix(suffix)
    paths = {kind: output.with_name(stem + suffixes()[kind]) for kind in formats}
    if len(formats) == 1 or formats[0] == "nifti":
        paths[formats[0]] = output  # as it was given
    return [(scan, maps | paths)]


class _LesionTable:
    """The CSV of all cases' lesions, written anew after each case; rows of other cases stay."""

    def __init__(self, args, cases):
        self.path = Path(args.lesions) if args.lesions else None
        self.rows = []
        if self.path is None or not self.path.exists():
            return
        check_new(self.path, overwrite=args.overwrite or args.skip_existing)
        from isanet_jax.quantify.lesions import COLUMNS

        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns, rows = tuple(reader.fieldnames or ()), list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"cannot be read as CSV ({error})", file=self.path) from error
        if not {"case", "lesion", "mtv_ml"} <= set(columns) <= set(COLUMNS):
            raise DataError(
                f"is not a table of lesions: it has the columns {', '.join(columns)[:200]}",
                file=self.path,
                wanted=", ".join(COLUMNS),
                action="Name another file with --lesions",
            )
        self.rows = [row for row in rows if row["case"] not in cases]

    def add(self, case, rows):
        """Adds a case's rows and writes the file."""
        if self.path is None:
            return
        from isanet_jax.files import write_csv
        from isanet_jax.quantify.lesions import COLUMNS

        self.rows += [{"case": case, **_rounded(row)} for row in rows]
        written = {name for row in self.rows for name in row}
        always = [name for name in COLUMNS if name != "class"]
        columns = [name for name in COLUMNS if name in written] if written else always
        write_csv(self.path, self.rows, columns)


def _rounded(row):
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()}


def _predict_group(predictor, jobs, args, table, page):
    """Predicts cases together and writes each; yields (scan, its outcome).

    An outcome is the line to show, or the error that the case has met, whatever it is.
    """
    from isanet_jax.prediction.result import predict, read_images

    read = []
    for scan, paths in jobs:
        try:
            kinds = predictor.settings.images
            images = read_images(scan, kinds, formats=paths, series=args.series)
            read.append((images, paths))
        except Exception as error:
            yield scan, error
    images = [one for one, _ in read]
    found = predict(predictor, images, batch=args.batch, progress=_progress)
    for (one, paths), outcome in zip(read, found, strict=True):
        if not isinstance(outcome, Exception):
            try:
                of_class = _of_class(outcome, args)
                outcome = _write_case(of_class, paths, args, table)  # noqa: PLW2901
                if page is not None:
                    page.add(of_class)
            except Exception as error:
                outcome = error  # noqa: PLW2901
        yield one.scan, outcome


class _Report:
    """The page of `--report`: lesions, and the scans with what was found."""

    def __init__(self, path):
        from isanet_jax.evaluation.page import Page
        from isanet_jax.evaluation.predicted import pack

        self._path, self._page, self._pack, self._rows = path, Page(), pack, []

    def add(self, prediction):
        from isanet_jax.evaluation.predicted import as_text

        case, rows = prediction.images.scan.case, prediction.lesions()
        # There is no score: of too many, those with the most lesions are kept.
        self._page.add(case, -len(rows), self._pack(prediction))
        for row in rows or [{}]:
            self._rows.append([case, *(as_text(row.get(name)) for name in _REPORTED)])

    def write(self):
        count = len({row[0] for row in self._rows})
        lines = ["What a network found. It is no diagnosis."]
        title = f"Predictions of {count} case(s)"
        tables = {"Lesions": (["case", *_REPORTED.values()], self._rows)}
        self._page.write(self._path, title=title, lines=lines, tables=tables)
        print(f"report: {self._path}")


_REPORTED = {
    **{"class": "class", "mtv_ml": "MTV ml", "suv_max": "SUVmax", "suv_mean": "SUVmean"},
    **{"suv_peak": "SUVpeak", "tlg_g": "TLG g"},
}


def _of_class(prediction, args):
    """The prediction of one class alone, where one is asked for."""
    return prediction if args.of_class is None else prediction.only(args.of_class)


def _write_case(prediction, paths, args, table):
    """Writes what a case's paths ask for, all of it or nothing; returns the line to show."""
    from isanet_jax.prediction.write import write_outputs

    rows = prediction.lesions()
    case = prediction.images.scan.case
    write_outputs(
        prediction,
        paths,
        keep_identity=args.keep_identity,
        overwrite=True,  # what exists was refused before any work
        before=lambda: table.add(case, rows),
    )
    notes = list(prediction.warnings)
    names = list(prediction.values)
    of_class = {n: [row for row in rows if row.get("class", n) == n] for n in names}
    parts = [
        (f"{name}: " if len(names) > 1 else "") + _summary(of_rows)
        for name, of_rows in of_class.items()
    ]
    summary = "; ".join(parts)
    if not rows:
        notes.append("EMPTY: no tumour found")
    written = next(str(paths[kind]) for kind in suffixes() if kind in paths)
    return f"{written}: {summary}" + "".join(f"; {note}" for note in notes)


def _summary(rows):
    """Volume, number and hottest of some lesions."""
    text = f"{sum(row['mtv_ml'] for row in rows):.2f} ml"
    if rows:
        text += f" in {len(rows)} lesion(s)"
        if hottest := [row["suv_max"] for row in rows if "suv_max" in row]:
            text += f", SUVmax {max(hottest):.2f}"
    return text


def _progress(total, batches):
    """A bar over windows, where there are more than one."""
    from tqdm import tqdm

    return tqdm(batches, total=total, unit="window", disable=None if total > 1 else True)
