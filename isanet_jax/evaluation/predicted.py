"""Tables and page of a folder of predictions, from what every process has left there."""

import heapq

from isanet_jax.evaluation.page import MOST_CASES, Page, key_of, pack_scan
from isanet_jax.files import write_csv
from isanet_jax.locks import only_here
from isanet_jax.prediction.many import Folder
from isanet_jax.prediction.result import Prediction
from isanet_jax.quantify import lesions as of_lesion
from isanet_jax.quantify import patients as of_patient

LESIONS, PATIENTS, REPORT = "lesions.csv", "patients.csv", "report.html"
HEADINGS = {
    **{"class": "class", "lesion": "lesion", "lesions": "lesions", "mtv_ml": "MTV ml"},
    **{"tmtv_ml": "TMTV ml", "suv_max": "SUVmax", "suv_mean": "SUVmean", "suv_peak": "SUVpeak"},
    **{"tlg_g": "TLG g", "largest_ml": "largest ml", "dmax_mm": "Dmax mm", "remark": "remark"},
    "volume_41_ml": "at 41 % ml",
}
_SUMMARY = ("tmtv_ml", "tlg_g", "lesions", "dmax_mm", "suv_max")
_OF_LESION = ("class", "lesion", "mtv_ml", "suv_max", "suv_mean", "suv_peak", "tlg_g",
              "volume_41_ml", "remark")  # fmt: skip
_OF_PATIENT = ("class", "lesions", "tmtv_ml", "tlg_g", "suv_max", "suv_peak", "largest_ml",
               "dmax_mm", "remark")  # fmt: skip


def pack(prediction: Prediction) -> dict:
    """What the page shows of a prediction."""
    images = prediction.images
    of_one = prediction.probability if len(prediction.volumes) == 1 else None
    summary = summary_of([], images.person, row=prediction.patient()[0])
    told = {"summary": summary, "warnings": list(prediction.warnings)}
    return pack_scan(
        images.volumes, images.kinds, prediction.masks, of_one,
        lesions=prediction.lesions_of_class, told=told,
    )  # fmt: skip


def summary_of(rows, person, *, row: dict | None = None) -> list[tuple[str, str]]:
    """A patient's figures as the page's head shows them: (heading, text).

    Args:
        rows: of lesions.
        person: the patient's body.
        row: the patient's, where it is known already.
    """
    row = row or of_patient.patient(rows, person)
    return [(HEADINGS[name], as_text(row[name])) for name in _SUMMARY if name in row]


def write_tables(folder: Folder, *, report: bool = True) -> None:
    """Writes lesions.csv, patients.csv and report.html of all that is done in a folder.

    Numbers are not rounded: SUVmean x MTV is TLG.
    """
    with only_here(folder.path, "tables", "writes its tables", wait=True):
        lesions, patients, shown = [], [], []
        for case, record in folder.all():
            if "error" in record:
                patients.append({"case": case, "remark": f"failed: {record['error']}"})
                continue
            lesions += [{"case": case, **row} for row in record["lesions"]]
            patients += [{"case": case, **row} for row in record["patients"]]
            shown.append((len(record["lesions"]), case, record))
        for name, rows, columns in (
            (LESIONS, lesions, of_lesion.COLUMNS),
            (PATIENTS, patients, of_patient.COLUMNS),
        ):
            used = [c for c in columns if c != "class" or any("class" in row for row in rows)]
            write_csv(folder.path / name, rows, used)
        if report:
            _write_page(folder, lesions, patients, shown)


def _write_page(folder, lesions, patients, shown):
    page = Page()
    for count, case, _ in heapq.nlargest(MOST_CASES, shown, key=lambda one: one[0]):
        page.add(case, -count, folder.page(case))
    lines = ["What a network found. It is no diagnosis."]
    lines += [f"{case}: {text}" for _, case, record in shown for text in record["warnings"]]
    several = any("class" in row for row in lesions)
    keys = [key_of(row.get("class", ""), row, several) for row in lesions]
    tables = {
        "Patients": _table(patients, _OF_PATIENT),
        "Lesions": (*_table(lesions, _OF_LESION), keys),
    }
    title = f"Predictions of {len({row['case'] for row in patients})} scan(s)"
    page.write(folder.path / REPORT, title=title, lines=lines, tables=tables)


def _table(rows, columns):
    """(headings, rows of text) of what some row has."""
    used = [name for name in columns if any(row.get(name) is not None for row in rows)]
    heads = ["case", *(HEADINGS[name] for name in used)]
    return heads, [[row["case"], *(as_text(row.get(name)) for name in used)] for row in rows]


def as_text(value) -> str:
    """A value in a table for people."""
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
