"""A folder of prepared cases: its manifest and its folds."""

import dataclasses
import json
from pathlib import Path

from isanet_jax.cases.case import FORMAT
from isanet_jax.datasets.sources import CASE_ID, CASE_ID_WORDS, HECKTOR_HOW
from isanet_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A folder of prepared cases.

    Attributes:
        folder: where `manifest.json`, `folds.json` and the cases are.
        settings: how they were prepared, see `isanet_jax.cases.prepare.Settings`.
        cases: case ID -> its manifest entry.
        fold_of: case ID -> fold.
    """

    folder: Path
    settings: dict
    cases: dict[str, dict]
    fold_of: dict[str, int]

    def path(self, case: str) -> Path:
        """The file of a case."""
        return self.folder / f"{case}.npz"


def read_cohort(folder) -> Cohort:
    """Reads a folder's manifest and folds.

    Raises:
        DataError: no such folder, no manifest, or one that is damaged or of another format.
    """
    folder = Path(folder)
    how = (
        f"Prepare your scans first, for example: python prepare.py hecktor --source DIR --output "
        f"{folder} (also sts, table; see README.md). {HECKTOR_HOW}"
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
            action="Prepare the cases again with this version",
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
    missing += [c for c in cases if not (folder / f"{c}.npz").is_file() and c not in missing]
    if missing:
        raise DataError(
            f"manifest, folds and files disagree on {', '.join(missing[:5])}",
            file=folder,
            action="Run the same prepare.py command again: it makes what is missing",
        )
    return Cohort(folder, manifest["settings"], cases, folds["fold_of"])
