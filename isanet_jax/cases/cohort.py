"""A folder of prepared cases: its manifest and its folds."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np

from isanet_jax.arguments import command
from isanet_jax.cases.case import FORMAT, PREPARE_AGAIN, SUFFIX, StoredCase
from isanet_jax.cases.preparation import settings_of
from isanet_jax.datasets.hecktor import HECKTOR_HOW
from isanet_jax.datasets.layout import CASE_ID, CASE_ID_WORDS
from isanet_jax.errors import DataError, damaged

_log = logging.getLogger(__name__)

MANIFEST, FOLDS = "manifest.json", "folds.json"


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
    manifest, folds = (read_json(folder / name, how) for name in (MANIFEST, FOLDS))
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"format {manifest.get('format')}",
            file=folder / MANIFEST,
            wanted=f"format {FORMAT}",
            action=_how_to_make_anew(manifest) or PREPARE_AGAIN,
        )
    both = (MANIFEST, manifest, _check_manifest), (FOLDS, folds, check_folds)
    for name, content, check in both:
        try:
            check(content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(folder / name, error, how_to_mend(folder / name)) from error
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


def read_json(path, how) -> dict:
    """The manifest, or the folds: an object. Raises DataError, which ends with `how`."""
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
        raise damaged(path, error, how_to_mend(path)) from error
    if not isinstance(content, dict):
        raise damaged(path, "it is no object", how_to_mend(path))
    return content


def how_to_mend(path) -> str:
    """What to do about a damaged manifest, or damaged folds."""
    more = (
        " with --refold, or put the file back from a copy: without it every patient may change "
        "folds"
        if path.name == FOLDS
        else ": it keeps the cases that are whole"
    )
    return f"Run the same {command('prepare')} again{more}"


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


def check_folds(folds) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError where these are no folds."""
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
