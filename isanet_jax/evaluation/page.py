"""report.html: one file that opens from a disk, with tables that sort and the volumes themselves.

The page's parts are in viewer/, plain and without a build: page.html, viewer.css, and what is in
`_SCRIPTS`.
"""

import base64
import gzip
import heapq
import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from isanet_jax.cases.grid import resample
from isanet_jax.files import replace_when_done
from isanet_jax.kinds import KINDS
from isanet_jax.metrics import METRICS, shown_in
from isanet_jax.volume import CONNECTED_26, Volume

MOST_CASES = 40  # whose volumes a page holds: those with the lowest scores
_MOST_VOXELS = 2_500_000  # of a case; of larger ones every second or third along each axis
_SCRIPTS = ("volumes", "sheets", "viewer", "tables", "charts")
_MEASURES = {"mtv_ml": "MTV ml", "suv_max": "SUVmax", "suv_peak": "SUVpeak", "tlg_g": "TLG g"}
_PARTS = Path(__file__).parent / "viewer"


def steps_of(kind: str, data: np.ndarray) -> np.ndarray:
    """The 256 values that an image is shown in, rising.

    Of a CT they lie 2 HU apart from -160 to 240, where soft tissues are told apart, and further
    apart elsewhere; of a PET ever further apart; of others evenly between their percentiles.
    """
    if kind == "ct":
        below, above = np.linspace(-1024, -162, 28), np.linspace(260, 3071, 28)
        return np.concatenate([below, np.linspace(-160, 240, 200), above]).astype(np.float32)
    if kind == "pet":
        return (max(float(data.max()), 1.0) * np.linspace(0, 1, 256) ** 2).astype(np.float32)
    low, high = np.percentile(data, (0.1, 99.9))
    return np.linspace(low, max(high, low + 1e-6), 256, dtype=np.float32)


def coded(data: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """uint8: the index of the nearest of the steps."""
    middles = (steps[1:] + steps[:-1]) / 2
    return np.searchsorted(middles, data).astype(np.uint8)


def packed(array: np.ndarray) -> str:
    """Base64 of the gzipped bytes; a higher level takes twice as long for 2 % less."""
    return base64.b64encode(gzip.compress(array.tobytes(), 1, mtime=0)).decode("ascii")


def pack_case(case, references, predictions, probability=None) -> dict:
    """What a page needs of a prepared case.

    Args:
        case: `isanet_jax.cases.case.Case`.
        references: class -> (D, H, W) bool.
        predictions: class, or method -> the same.
        probability: (D, H, W), of one class; None: not shown.
    """
    step = _step_of(next(iter(case.images.values())).shape)
    part = (slice(None, None, step),) * 3
    affine = np.array(case.meta["affine"], float)
    affine[:3, :3] *= step
    return _content(
        {name: data[part] for name, data in case.images.items()},
        {name: case.meta["images"][name]["kind"] for name in case.images},
        affine,
        references={name: mask[part] for name, mask in references.items()},
        predictions={name: mask[part] for name, mask in predictions.items()},
        probability=None if probability is None else probability[part],
    )


def pack_scan(
    volumes: Mapping[str, Volume],
    kinds,
    predictions,
    probability=None,
    *,
    references=None,
    lesions=None,
    told=MappingProxyType({}),
    most=_MOST_VOXELS,
) -> dict:
    """What a page needs of a scan, on its first image's grid.

    Args:
        volumes: its images, on any grids.
        kinds: name -> kind.
        predictions: class -> (I, J, K) bool on the first image's grid.
        probability: (I, J, K) there, of one class; None: not shown.
        references: as `predictions`; None: there are none.
        lesions: class -> rows of `isanet_jax.quantify.lesions.lesions`, as tables show them; None:
            the places alone are shown.
        told: what is shown besides: `summary`, pairs of a label and a value; `warnings`, texts.
        most: voxels, of more every second or third along each axis is kept.
    """
    first = next(iter(volumes.values()))
    step = _step_of(first.data.shape, most)
    to_patient = to_page(first.affine)

    def turned(data):
        return nibabel.apply_orientation(data, to_patient)[::step, ::step, ::step]

    back = nibabel.orientations.inv_ornt_aff(to_patient, first.data.shape)
    affine = first.affine @ back @ np.diag([step, step, step, 1])
    shape = turned(first.data).shape
    images = {
        name: turned(volume.data)
        if volume is first
        else resample(volume, shape, affine, order=1, fill=KINDS[kinds[name]].outside)
        for name, volume in volumes.items()
    }
    shown, real = (
        {name: turned(mask) for name, mask in masks.items()}
        for masks in (predictions, references or {})
    )
    of_class = None if probability is None else turned(probability)
    content = _content(
        images, kinds, affine, references=real, predictions=shown, probability=of_class,
        lesions=None if lesions is None else _measured(lesions, shown, affine),
    )  # fmt: skip
    return content | told


def to_page(affine: np.ndarray) -> np.ndarray:
    """How axes are turned to those of the page: towards the head, the back and the left.

    See `nibabel.apply_orientation`.
    """
    return nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt("SPL")
    )


def key_of(name: str, row: Mapping, several: bool) -> str:
    """By which a lesion is found in a page: its number, after its class where there are several."""
    return f"{name} {row['lesion']}" if several else str(row["lesion"])


def _measured(lesions, masks, affine):
    """Lesions as their rows number them, each at the voxel of its class nearest its centroid."""
    found = []
    for name, rows in lesions.items():
        voxels = np.argwhere(masks[name])
        for row in rows:
            ras = np.array([-row["x_mm"], -row["y_mm"], row["z_mm"]])
            at = apply_affine(np.linalg.inv(affine), ras)
            if len(voxels):
                at = voxels[np.square(voxels - at).sum(1).argmin()]
            centre = np.clip(np.rint(at), 0, np.array(masks[name].shape) - 1)
            key = key_of(name, row, len(lesions) > 1)
            found.append(
                {"class": name, "what": "found", "key": key, "label": key}
                | {"measures": measures_of(row), "centre": centre.astype(int).tolist()}
            )
    return found


def measures_of(row: Mapping) -> dict[str, str]:
    """A lesion's measures as the page lists them: heading -> text."""
    return {heading: f"{row[column]:.2f}" for column, heading in _MEASURES.items() if column in row}


def _step_of(shape, most=_MOST_VOXELS):
    """Every how many voxels of a case are shown, so that it is not too large."""
    return max(1, int(np.ceil((math.prod(shape) / most) ** (1 / 3))))


def _content(images, kinds, affine, *, references, predictions, probability, lesions=None):
    """Makes JSON of arrays (D, H, W) of one grid, and its affine."""
    of_images = []
    for name, data in images.items():
        kind = kinds[name]
        steps = steps_of(kind, data)
        of_images.append(
            {
                "name": name,
                "kind": kind,
                "unit": KINDS[kind].unit,
                "values": [round(float(v), 4) for v in steps],
                "data": packed(coded(data, steps)),
            }
        )
    masks = [
        {"class": name, "number": number, "role": role, "data": packed(np.packbits(mask))}
        for role, of in (("reference", references), ("prediction", predictions))
        for number, (name, mask) in enumerate(of.items())
    ]
    content = {
        "shape": list(next(iter(images.values())).shape),
        "spacing": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
        "affine": affine.tolist(),
        "images": of_images,
        "masks": masks,
        "lesions": _lesions(references, predictions) if lesions is None else lesions,
    }
    if probability is not None:
        content["probability"] = packed(np.rint(probability * 255).astype(np.uint8))
    return content


def _lesions(references, predictions):
    """Places to jump to: every lesion of the reference, and what was found where none is."""
    found = []
    for name in {**references, **predictions}:
        mask = references.get(name)
        if mask is not None:
            found += [{"class": name, "what": "lesion", "centre": c} for c in _centres(mask)]
        elif references:
            continue  # of methods: their lesions are the reference's
        here = predictions.get(name)
        if here is not None:
            known = np.zeros(here.shape, bool) if mask is None else mask
            what = "found" if mask is None else "false"
            found += [{"class": name, "what": what, "centre": c} for c in _centres(here, known)]
    return found


def _centres(mask, known=None):
    """Returns the voxel nearest the centre of each component that touches nothing known."""
    parts, count = ndimage.label(mask, CONNECTED_26)
    centres = []
    for number in range(1, count + 1):
        here = parts == number
        if known is not None and (here & known).any():
            continue
        voxels = np.argwhere(here)
        nearest = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
        centres.append([int(v) for v in nearest])
    return centres


class Page:
    """Collects cases, and writes the page; of many, the volumes of those that did worst.

    Attributes:
        most: how many cases' volumes are kept.
        is_full: whether there were more.
    """

    def __init__(self, most: int = MOST_CASES):
        self.most, self.is_full = most, False
        self._kept = []  # a heap of (-score, number, name, JSON): the best is the first to go

    def add(self, name: str, score: float, content: dict) -> None:
        """Keeps a case, see `pack_case`, and lets the best one go where there are too many."""
        entry = (-float(score), len(self._kept), name, _as_json(content))
        heapq.heappush(self._kept, entry)
        if len(self._kept) > self.most:
            self.is_full = True
            # The lowest of the heap is the highest score.
            heapq.heappop(self._kept)

    def write(self, path, *, title: str, lines, tables, charts=()) -> None:
        """Writes the page.

        Args:
            path: of the file, `.html`.
            title: at its top.
            lines: of text, below the title.
            tables: heading -> its headings, rows, and, where they are lesions, the key of each
                row (`key_of`); a click on a row that begins with the ID of a case opens its
                volumes, and goes to the lesion.
            charts: see `isanet_jax.evaluation.charts`.
        """
        shown = sorted(self._kept, key=lambda entry: -entry[0])
        names = [{"name": name, "score": -negative} for negative, _, name, _ in shown]
        data = [
            f'<script type="application/json" id="case-{number}">{content}</script>'
            for number, (*_, content) in enumerate(shown)
        ]
        in_page = {entry["name"] for entry in names}
        shown_tables = [
            f'<h2>{html.escape(heading)}</h2>\n<div class="scroll">{_table(in_page, *table)}</div>'
            for heading, table in tables.items()
        ]
        text = page_text(
            title=title,
            cases=names,
            introduction="\n".join(f"<p>{html.escape(line)}</p>" for line in lines),
            tables="\n".join(shown_tables),
            charts=_as_json(list(charts)),
            data="\n".join(data),
        )
        with replace_when_done(path) as partial:
            partial.write_text(text, encoding="utf-8")


def page_text(
    *, title: str, cases: list[dict], introduction="", tables="", charts="[]", data="", edits=False
) -> str:
    """The page's HTML.

    Args:
        title: at its top.
        cases: `name` and `score` of each that can be opened.
        introduction, tables, data: HTML.
        charts: JSON.
        edits: with the tools of a reader, for a server that cases are fetched from
            (`isanet_jax.annotate.page`).
    """

    def part(name):
        return (_PARTS / name).read_text(encoding="utf-8")

    scripts = ("volumes", "sheets", "viewer", *(["editor"] if edits else []), *_SCRIPTS[3:])
    return Template(part("page.html")).substitute(
        title=html.escape(title),
        style=part("viewer.css"),
        connect=" connect-src 'self'" * edits,
        tools=part("tools.html") if edits else "",
        introduction=introduction,
        tables=tables,
        charts=charts,
        cases=_as_json(cases),
        data=data,
        script="\n".join(part(f"{name}.js") for name in scripts),
    )


def _as_json(content):
    """JSON that can stand in a page: no text in it can end the element that it is in."""
    return json.dumps(content).replace("<", "\\u003c")


def metrics_table(scores, of: str = "class") -> tuple[list[str], list[list[str]]]:
    """A line for each case and class, or method, the hardest first.

    Args:
        scores: class, or method -> ID -> metrics, on the original grid.
        of: what the scores are of, the heading of its column.
    """
    several, shown = len(scores) > 1, shown_in("page")
    heads = ["case", *([of] if several else []), *(METRICS[c].heading for c in shown)]
    rows = [
        [case, *([name] if several else [])]
        + [f"{metrics[c]:.{METRICS[c].digits}f}" for c in shown]
        for name, cases in scores.items()
        for case, metrics in sorted(cases.items(), key=lambda pair: pair[1]["dsc"])
    ]
    return heads, rows


def _table(with_volumes, heads, rows, keys=None):
    lines = []
    for number, cells in enumerate(rows):
        opens = f' data-case="{html.escape(cells[0])}"' if cells[0] in with_volumes else ""
        if opens and keys:
            opens += f' data-lesion="{html.escape(keys[number])}"'
        lines.append(f"<tr{opens}>{_cells('td', cells)}</tr>")
    return (
        f'<table class="sortable"><thead><tr>{_cells("th", heads)}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table>"
    )


def _cells(kind, texts):
    return "".join(f"<{kind}>{html.escape(str(text))}</{kind}>" for text in texts)
