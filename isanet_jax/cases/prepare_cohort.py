"""A cohort from scans: every case, then the manifest and the folds."""

import logging
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import isanet_jax
from isanet_jax.cases.case import FORMAT, PREPARE_AGAIN, SUFFIX, case_of
from isanet_jax.cases.cohort import FOLDS, MANIFEST, check_folds, how_to_mend, read_json
from isanet_jax.cases.folds import make_folds
from isanet_jax.cases.grid import as_three
from isanet_jax.cases.preparation import Settings
from isanet_jax.cases.prepare import prepare_case
from isanet_jax.claims import Claims
from isanet_jax.classes import Classes
from isanet_jax.datasets.layout import Scan
from isanet_jax.datasets.phantom import (
    FIELD_MM,
    NODAL_CLASSES,
    make_nodal_phantom,
    make_phantom,
    write_phantoms,
)
from isanet_jax.datasets.phantom_body import CLASSES, SPACING_MM, make_body
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError, DataError, damaged, failure_of, some
from isanet_jax.files import write_json
from isanet_jax.locks import only_here
from isanet_jax.parallel import in_processes, part_of

_log = logging.getLogger(__name__)

_CLAIMS = ".claims"  # folder of who makes which case
_MANIFEST_KEYS = (
    *("case", "patient", "centre", "fold", "shape", "spacing_mm", "volume_ml", "volume_case_ml"),
    *("volumes_ml", "volumes_case_ml", "reference_shape", "reference_affine", "images"),
    *("sources", "warnings", "content", "digest", "directory"),
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
    refold=False,
    failures=None,
    copies=None,
    part=None,
    cluster=None,
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
        part: of the scans, see `isanet_jax.parallel.part_of`; None: all.
        cluster: see `isanet_jax.parallel.in_processes`.

    Returns:
        The manifest's entries; [] of a part after which cases are lacking still.

    Raises:
        DataError: cases that failed, with every reason, an output folder of other cases, or folds
            that cannot be (see `isanet_jax.cases.folds.make_folds`).
    """
    output = Path(output)
    _check_folder(output, scans, removes=part is None)
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
    if part is not None:
        if not _make_part(make, scans, output, part, workers=workers, cluster=cluster):
            return []
        # The last ones to end come here together: one after the other writes the same.
        with only_here(output, "prepare", "writes the manifest", wait=True):
            return prepare(
                scans, settings, output, kind=kind, folds=folds, seed=seed, workers=workers,
                skip_bad=skip_bad, refold=refold, failures=failures, copies=copies,
            )  # fmt: skip
    metas, failures = _make_all(make, scans, output, workers, cluster) if scans else ([], {})
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
            manifest = read_json(output / MANIFEST, "")
            self.entries = {str(entry["case"]): entry for entry in manifest["cases"]}
        except (DataError, KeyError, TypeError):
            self.entries = {}
        self._file, self._dealt = output / FOLDS, {"fold_of": {}}
        if not self._file.exists():
            return
        try:
            dealt = read_json(self._file, "")
            try:
                check_folds(dealt)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise damaged(self._file, error, how_to_mend(self._file)) from error
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
            f"({some(moved)}): runs that were trained on the folds before cannot be resumed or "
            "scored on these"
        )
    if new:
        with_fold = [f"{patient} in {fold_now[patient]}" for patient in new]
        lines.append(
            f"{len(earlier) - len(moved)} patients keep their folds, {len(new)} new "
            f"{'ones are' if len(new) > 1 else 'one is'} dealt into them ({some(with_fold)})"
        )
    return "; ".join(lines)


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


def _make_part(make, scans, output, part, *, workers, cluster):
    """Makes the cases of a part that no other process works on; whether all are there then.

    Raises:
        DataError: cases of the part that failed.
    """
    mine = part_of(sorted(scans, key=lambda scan: scan.case), part)
    with Claims(output / _CLAIMS) as claims:
        taken = [scan for scan in mine if claims.take(scan.case)]
        metas, failures = _make_all(make, taken, output, workers, cluster)
    if failures:
        raise DataError(
            "\n  ".join([f"{len(failures)} of {len(mine)} cases failed:", *failures.values()])
        )
    lacking = [s.case for s in scans if not (output / f"{s.case}{SUFFIX}").exists()]
    _log.info(f"part {part}: {len(metas)} of {len(mine)} cases; {len(lacking)} of all are lacking")
    return not lacking


def _check_folder(output, scans, *, removes):
    """Refuses a folder with cases of another source; removes what a killed run left half done."""
    for unfinished in output.glob(".*.part*") if removes else ():
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


def _make_all(make, scans, output, workers, cluster=None):
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

        for scan, outcome in in_processes(make, scans, workers, cluster):
            collect(scan, outcome)
    return metas, failures
