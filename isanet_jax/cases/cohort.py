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
from isanet_jax.cases.case import FORMAT, PREPARE_AGAIN, SUFFIX, StoredCase, case_of
from isanet_jax.cases.folds import make_folds
from isanet_jax.cases.grid import as_three
from isanet_jax.cases.preparation import Settings, settings_of
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
from isanet_jax.errors import ConfigError, DataError, failure_of
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

    def stored(self, case: str, images=None) -> StoredCase:
        """A case whose arrays are read when they are asked for, if it is the manifest's.

        Raises:
            DataError: see `StoredCase`.
        """
        return StoredCase(self.path(case), images, self.cases[case])


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
    manifest, folds = (_read(folder / name, how) for name in (MANIFEST, FOLDS))
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"format {manifest.get('format')}",
            file=folder / MANIFEST,
            wanted=f"format {FORMAT}",
            action=_how_to_make_anew(manifest) or PREPARE_AGAIN,
        )
    both = (MANIFEST, manifest, _check_manifest), (FOLDS, folds, _check_folds)
    for name, content, check in both:
        try:
            check(content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(folder / name, error) from error
    cases = {entry["case"]: entry for entry in manifest["cases"]}
    bad = [case for case in {**cases, **folds["fold_of"]} if not CASE_ID.fullmatch(str(case))]
    if bad:
        raise DataError(
            f"the ID {bad[0]!r} cannot name a file",
            file=folder / MANIFEST,
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


def _read(path, how):
    """A folder's JSON; an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"no readable {path.name} ({error})",
            file=path.parent,
            wanted="prepared cases",
            action=how,
        ) from error
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no object")
    return content


def _damaged(path, error):
    more = (
        " with --refold, or put the file back from a copy: without it every patient may change "
        "folds"
        if path.name == FOLDS
        else ": it keeps the cases that are whole"
    )
    return DataError(
        f"is damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
        file=path,
        action=f"Run the same {command('prepare')} again{more}",
    )


def _check_manifest(manifest):
    """Raises what a manifest that was changed by hand or by a disk makes of it."""
    settings_of(manifest["settings"])
    for entry in manifest["cases"]:
        shape, spacing_mm = entry["shape"], entry["spacing_mm"]
        if not all(len(v) == 3 and all(n > 0 for n in v) for v in (shape, spacing_mm)):
            raise ValueError(f"case {entry['case']}: shape {shape}, spacing {spacing_mm}")
        if not isinstance(entry["patient"], str) or not entry["sources"].values():
            raise ValueError(f"case {entry['case']}: patient {entry['patient']!r}, or no sources")
        float(entry["volume_ml"]), dict(entry["images"]), dict(entry["volumes_case_ml"])


def _check_folds(folds):
    for case, fold in folds["fold_of"].items():
        if type(fold) is not int:
            raise ValueError(f"case {case}: fold {fold!r}")


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
    *("sources", "warnings", "content", "digest", "directory"),
)
MANIFEST, FOLDS = "manifest.json", "folds.json"


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
    refold=False,
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
        refold: deal every patient anew. Else those who are there keep their folds, and new ones
            are dealt into the folds that lack them.
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
    unread = failures or {}
    there = _Earlier(output, readable=not refold)
    if not refold and not any(scan.fold is not None for scan in scans):
        there.check(folds, seed)
    if scans and not unread:  # what folds cannot be is known before hours of work
        cases = [vars(scan) for scan in scans]
        before = {} if refold else there.folds_of(cases)
        make_folds(cases, folds=folds, seed=seed, before=before)
    make = partial(
        prepare_case, settings=settings, output=output, copies=copies, entries=there.entries
    )
    metas, failures = _make_all(make, scans, output, workers) if scans else ([], {})
    failures = unread | failures
    if failures and not (skip_bad and metas):
        total = len(scans) + len(unread)
        raise DataError(
            "\n  ".join([f"{len(failures)} of {total} cases failed:", *failures.values()]),
            action="\nFinished cases are kept: mend these and run the same command again, or leave "
            "them out with --skip-bad",
        )
    metas.sort(key=lambda meta: meta["case"])
    before = {} if refold else there.folds_of(metas)
    fold_of = make_folds(metas, folds=folds, seed=seed, before=before)
    if said := _changes(metas, fold_of, there.folds_of(metas)):
        _log.info(said)
    for warning in _doubled(metas, fold_of):
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
    write_json(output / FOLDS, {"folds": folds, "seed": seed, "fold_of": fold_of})
    write_json(output / MANIFEST, manifest)
    return entries


class _Earlier:
    """What was prepared in a folder before.

    Attributes:
        entries: case -> what the manifest says of it; empty where there is none, or a damaged one.

    Args:
        output: the folder.
        readable: whether damaged folds are an error, or as good as none.

    Raises:
        DataError: they are damaged.
    """

    def __init__(self, output, *, readable):
        try:
            manifest = _read(output / MANIFEST, "")
            self.entries = {str(entry["case"]): entry for entry in manifest["cases"]}
        except (DataError, KeyError, TypeError):
            self.entries = {}
        self._file, self._dealt = output / FOLDS, {"fold_of": {}}
        if not self._file.exists():
            return
        try:
            dealt = _read(self._file, "")
            try:
                _check_folds(dealt)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise _damaged(self._file, error) from error
            self._dealt = dealt
        except DataError:
            if readable:
                raise

    def check(self, folds, seed):
        """Raises ConfigError where patients were dealt into other folds than are asked for."""
        asked = {"folds": folds, "seed": seed}
        stored = {name: self._dealt.get(name, value) for name, value in asked.items()}
        if self._dealt["fold_of"] and stored != asked:
            raise ConfigError(
                f"{self._file} has {stored['folds']} folds dealt from seed {stored['seed']}, and "
                f"--folds is {folds}, --seed {seed}: patients would change folds. Use --folds "
                f"{stored['folds']} --seed {stored['seed']}, or deal all anew with --refold"
            )

    def folds_of(self, cases) -> dict[str, int]:
        """Patient -> the fold of them or of a case that is theirs now, where they have one."""
        found, fold_of = {}, self._dealt["fold_of"]
        for case, fold in sorted(fold_of.items()):
            if case in self.entries:
                found.setdefault(self.entries[case].get("patient"), fold)
        for case in sorted(cases, key=lambda c: c["case"]):
            if case["case"] in fold_of:
                found.setdefault(case["patient"], fold_of[case["case"]])
        patients = {case["patient"] for case in cases}
        return {patient: fold for patient, fold in found.items() if patient in patients}


def _changes(metas, fold_of, earlier):
    """What is to be said of folds where there were some."""
    if not earlier:
        return ""
    fold_now = {meta["patient"]: fold_of[meta["case"]] for meta in metas}
    new = sorted(fold_now.keys() - earlier.keys())
    moved = sorted(p for p, fold in earlier.items() if fold_now[p] != fold)
    lines = []
    if moved:
        lines.append(
            f"{len(moved)} of {len(earlier)} patients have another fold than before "
            f"({_some(moved)}): runs that were trained on the folds before cannot be resumed or "
            "scored on these"
        )
    if new:
        with_fold = [f"{patient} in {fold_now[patient]}" for patient in new]
        lines.append(
            f"{len(earlier) - len(moved)} patients keep their folds, {len(new)} new "
            f"{'ones are' if len(new) > 1 else 'one is'} dealt into them ({_some(with_fold)})"
        )
    return "; ".join(lines)


def _some(names):
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def prepare_phantoms(
    output, *, cases, seed, size=48, kind="head", folds=5, workers=1, refold=False
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
        folds, workers, refold: see `prepare`.

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
    options = {"folds": folds, "seed": seed, "workers": workers, "refold": refold}
    return prepare(scans, settings, output, kind="phantom", **options)


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


def _doubled(metas, fold_of):
    """What is one scan under two patients' IDs: it may be trained on and tested on."""
    first, warnings = {}, []
    for meta in metas:
        digests = {"the scan": meta["content"]}
        digests |= {name: meta["sources"][name] for name in list(meta["images"])[1:]}
        for name, digest in digests.items():
            other = first.setdefault((name, digest), meta)
            if other["patient"] != meta["patient"]:
                here, there = fold_of[meta["case"]], fold_of[other["case"]]
                where = f"they are in the folds {there} and {here}: leave one of them out"
                where = where if here != there else "both are in one fold"
                warnings.append(
                    f"case {meta['case']}: {name} is the same as that of case {other['case']}, of "
                    f"another patient; {where}"
                )
    return warnings


def _make_all(make, scans, output, workers):
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

        for scan, outcome in in_processes(make, scans, workers):
            collect(scan, outcome)
    return metas, failures
