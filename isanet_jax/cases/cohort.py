"""A folder of prepared cases: its manifest and its folds."""

import dataclasses
import json
import logging
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

import isanet_jax
from isanet_jax.arguments import command
from isanet_jax.cases.case import FORMAT, PREPARE_AGAIN, SUFFIX, case_of
from isanet_jax.cases.folds import make_folds
from isanet_jax.cases.grid import as_three
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare import prepare_case
from isanet_jax.classes import Classes
from isanet_jax.datasets.hecktor import HECKTOR_HOW
from isanet_jax.datasets.layout import CASE_ID, CASE_ID_WORDS, Scan
from isanet_jax.datasets.phantom import (
    FIELD_MM,
    NODAL_CLASSES,
    make_nodal_phantom,
    make_phantom,
    write_phantoms,
)
from isanet_jax.datasets.phantom_body import CLASSES, SPACING_MM, make_body
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import DataError, failure_of
from isanet_jax.files import write_json
from isanet_jax.parallel import in_processes

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A folder of prepared cases.

    Attributes:
        folder: where `manifest.json`, `folds.json` and the cases are.
        settings: how they were prepared, see `isanet_jax.cases.preparation.Settings`.
        cases: case ID -> its manifest entry.
        fold_of: case ID -> fold.
    """

    folder: Path
    settings: dict
    cases: dict[str, dict]
    fold_of: dict[str, int]

    def path(self, case: str) -> Path:
        """The file of a case."""
        return self.folder / f"{case}{SUFFIX}"


def read_cohort(folder) -> Cohort:
    """Reads a folder's manifest and folds.

    Raises:
        DataError: no such folder, no manifest, or one that is damaged or of another format.
    """
    folder = Path(folder)
    how = (
        f"Prepare your scans first, for example: {command('prepare')} hecktor --source DIR "
        f"--output {folder} (also sts, table; see README.md). {HECKTOR_HOW}"
    )
    if not folder.is_dir():
        raise DataError("no such folder", file=folder, wanted="prepared cases", action=how)
    contents = []
    for name in ("manifest.json", "folds.json"):
        try:
            contents.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"no readable {name} ({error})", file=folder, wanted="prepared cases", action=how
            ) from error
    manifest, folds = contents
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"format {manifest.get('format')}",
            file=folder / "manifest.json",
            wanted=f"format {FORMAT}",
            action=_how_to_make_anew(manifest) or PREPARE_AGAIN,
        )
    cases = {entry["case"]: entry for entry in manifest["cases"]}
    bad = [case for case in {**cases, **folds["fold_of"]} if not CASE_ID.fullmatch(str(case))]
    if bad:
        raise DataError(
            f"the ID {bad[0]!r} cannot name a file",
            file=folder / "manifest.json",
            wanted=CASE_ID_WORDS,
        )
    missing = sorted(cases.keys() ^ folds["fold_of"].keys())
    missing += [c for c in cases if not (folder / f"{c}{SUFFIX}").is_file() and c not in missing]
    if missing:
        raise DataError(
            f"manifest, folds and files disagree on {', '.join(missing[:5])}",
            file=folder,
            action=f"Run the same {command('prepare')} again: it makes what is missing",
        )
    return Cohort(folder, manifest["settings"], cases, folds["fold_of"])


def _how_to_make_anew(manifest) -> str:
    """The command that makes an older version's cases again; "" where too little is known."""
    layout, settings = manifest.get("layout"), manifest.get("settings")
    if not isinstance(settings, dict) or not {"size", "fit", "spacing_mm"} <= settings.keys():
        return ""
    size = f"--size {settings['size']}"
    if layout == "phantom":
        words = ["phantom", "--output NEW", f"--cases {len(manifest['cases'])}", size]
    else:
        words = [str(layout), "--source DIR", "--output NEW"]
        words += [size] if settings["fit"] != "whole" else []
        words.append(f"--fit {settings['fit']}")
        if settings["fit"] != "resize":
            words.append(
                "--spacing-mm " + " ".join(f"{s:g}" for s in np.atleast_1d(settings["spacing_mm"]))
            )
        if (values := settings.get("label_values", [1])) != [1]:
            words.append(f"--label-values {','.join(map(str, values))}")
    return f"Recreate them with: {command('prepare')} {' '.join(words)}"


_MANIFEST_KEYS = (
    *("case", "patient", "centre", "fold", "shape", "spacing_mm", "volume_ml", "volume_case_ml"),
    *("volumes_ml", "volumes_case_ml", "reference_shape", "reference_affine", "images"),
    *("sources", "warnings"),
)


def prepare(
    scans: list[Scan],
    settings: Settings,
    output,
    *,
    kind,
    folds,
    seed,
    workers,
    skip_bad=False,
    failures=None,
    copies=None,
) -> list[dict]:
    """Makes every case, then the manifest and the folds.

    All cases are tried before an error ends the run, and finished cases are kept for the next.

    Args:
        scans: what to prepare.
        settings: how.
        output: folder of the cases.
        kind: name of the source's layout, for the manifest.
        folds, seed: see `isanet_jax.cases.folds.make_folds`.
        workers: processes; 1 runs in this one.
        skip_bad: write the manifest without the cases that failed, which are listed in it.
        failures: case -> reason, of what failed before it was a scan.
        copies: folder that gets DICOM studies as NIfTI, too; None: no copies.

    Returns:
        The manifest's entries.

    Raises:
        DataError: cases that failed, with every reason, an output folder of other cases, or folds
            that cannot be (see `isanet_jax.cases.folds.make_folds`).
    """
    output = Path(output)
    _check_folder(output, scans)
    before = failures or {}
    if scans and not before:  # what folds cannot be is known before hours of work
        make_folds([vars(scan) for scan in scans], folds=folds, seed=seed)
    metas, failures = _make_all(scans, settings, output, workers, copies) if scans else ([], {})
    failures = before | failures
    if failures and not (skip_bad and metas):
        total = len(scans) + len(before)
        raise DataError(
            "\n  ".join([f"{len(failures)} of {total} cases failed:", *failures.values()]),
            action="\nFinished cases are kept: mend these and run the same command again, or leave "
            "them out with --skip-bad",
        )
    metas.sort(key=lambda meta: meta["case"])
    fold_of = make_folds(metas, folds=folds, seed=seed)
    for warning in _doubled(metas):
        _log.error(f"warning: {warning}")
    entries = [{key: meta[key] for key in _MANIFEST_KEYS} for meta in metas]
    packages = ("numpy", "scipy", "nibabel")
    manifest = {
        "format": FORMAT,
        "layout": kind,
        "versions": {
            "isanet_jax": isanet_jax.__version__,
            **{name: metadata.version(name) for name in packages},
        },
        "settings": metas[0]["settings"],
        "failed": failures,
        "cases": entries,
    }
    write_json(output / "folds.json", {"folds": folds, "seed": seed, "fold_of": fold_of})
    write_json(output / "manifest.json", manifest)
    return entries


def prepare_phantoms(
    output, *, cases, seed, size=48, kind="head", folds=5, workers=1
) -> list[dict]:
    """Makes phantoms in `output`/scans and prepares them into `output`; see `prepare`.

    Args:
        output: folder.
        cases: how many.
        seed: of the phantoms and the folds.
        size: voxels per axis of `head` and `nodes`, which are `crop`.
        kind: `head`: tumours of one class in a small field; `nodes`: a primary tumour and lymph
            nodes there, two classes; `body`: whole bodies with two classes
            (`isanet_jax.datasets.phantom_body`), which are `whole`, in their own voxels.
        folds, workers: see `prepare`.

    Raises:
        DataError: fewer cases than folds.
    """
    names = [{"case": n, "patient": n, "centre": "", "fold": None} for n in range(cases)]
    make_folds(names, folds=folds, seed=seed)
    make = {"head": make_phantom, "nodes": make_nodal_phantom, "body": make_body}[kind]
    table = write_phantoms(Path(output) / "scans", cases=cases, seed=seed, make=make)
    if kind == "body":
        settings = Settings(fit="whole", spacing_mm=SPACING_MM, classes=Classes(CLASSES))
    else:
        spacing_mm = tuple(FIELD_MM / n for n in reversed(as_three(size)))
        classes = {"classes": Classes(NODAL_CLASSES)} if kind == "nodes" else {}
        settings = Settings(size=size, fit="crop", spacing_mm=spacing_mm, **classes)
    scans = read_table(table)
    return prepare(scans, settings, output, kind="phantom", folds=folds, seed=seed, workers=workers)


def _check_folder(output, scans):
    """Refuses a folder with cases of another source; removes what a killed run left half done."""
    for unfinished in output.glob(".*.part*"):
        unfinished.unlink(missing_ok=True)
    if older := next(output.glob("*.npz"), None):
        raise DataError("holds cases of an older version", file=older, action=PREPARE_AGAIN)
    others = sorted({case_of(p) for p in output.glob(f"*{SUFFIX}")} - {scan.case for scan in scans})
    if others:
        raise DataError(
            f"holds cases that are not in the source: {', '.join(others[:5])}",
            file=output,
            action="Choose another --output, or delete these files",
        )


def _doubled(metas):
    """What is one scan under two patients' IDs: it may be trained on and tested on."""
    first, warnings = {}, []
    for meta in metas:
        for name in meta["images"]:
            other = first.setdefault((name, meta["sources"][name]), meta)
            if other["patient"] != meta["patient"]:
                warnings.append(
                    f"case {meta['case']}: {name} is the same file as that of case "
                    f"{other['case']}, of another patient, and may be in another fold"
                )
    return warnings


def _make_all(scans, settings, output, workers, copies):
    """(metas, failures by case); prints a progress bar and each warning."""
    from tqdm import tqdm  # here: workers need not import it

    metas, failures = [], {}
    with tqdm(total=len(scans), unit="case", disable=None, file=sys.stderr) as bar:

        def collect(scan, outcome):
            try:
                meta, _ = outcome()
                metas.append(meta)
                for warning in meta["warnings"]:
                    bar.write(f"warning: case {scan.case}: {warning}", file=sys.stderr)
            except Exception as error:
                error = failure_of(error, scan.case, output / "errors.log")
                failures[scan.case] = str(error)
                bar.write(f"error: {error}", file=sys.stderr)
            bar.update()

        make = partial(prepare_case, settings=settings, output=output, copies=copies)
        for scan, outcome in in_processes(make, scans, workers):
            collect(scan, outcome)
    return metas, failures
