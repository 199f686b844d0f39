"""Many scans predicted into one folder: each once, by one process or many, whatever is killed.

NAME.nii.gz, NAME.seg.dcm, ...   the masks
.scans/NAME.json                 what is known of a scan's result; it is there when all is
.scans/NAME.page                 what a report shows of it
.scans/NAME.claim                a process works on it
"""

import dataclasses
import functools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from isanet_jax.claims import Claims
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError, failure_of
from isanet_jax.files import replace_when_done, write_json
from isanet_jax.prediction.formats import of_dicom, suffixes
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.result import Images, Prediction, predict, read_images
from isanet_jax.prediction.write import write_outputs
from isanet_jax.quantify.reference import of_words

RECORDS = ".scans"
_END = object()
_WRITERS = 2  # writing takes longer than computing does


class Folder:
    """The folder's records.

    Args:
        path: of the folder; it is made.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.records = self.path / RECORDS
        self.records.mkdir(parents=True, exist_ok=True)

    def record(self, case: str) -> dict:
        """What is known of a scan; {} of one that was not done."""
        try:
            content = json.loads((self.records / f"{case}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def all(self) -> Iterator[tuple[str, dict]]:
        """(case, record) of every scan that was done, or failed, by any process."""
        for path in sorted(self.records.glob("*.json")):
            if record := self.record(path.stem):
                yield path.stem, record

    def is_done(self, case: str, digest: str, regions=None) -> bool:
        """Whether a scan has its results, all of them, by this model and with these regions.

        Raises:
            ConfigError: it has another model's.
        """
        record = self.record(case)
        if not record or "error" in record:
            return False
        if not all((self.path / name).exists() for name in record.get("outputs", ())):
            return False
        if regions is not None and record.get("regions") != _listed(regions):
            return False
        if record.get("digest") != digest:
            raise ConfigError(
                f"{self.path} has results of another model ({record.get('model')}); choose another "
                "folder, or --overwrite them"
            )
        return True

    def write(self, case: str, record: dict, page=None) -> None:
        """Keeps what is known of a scan; its results are there."""
        if page is not None:
            with replace_when_done(self.records / f"{case}.page") as partial:
                partial.write_text(json.dumps(page), encoding="utf-8")
        write_json(self.records / f"{case}.json", record)

    def page(self, case: str) -> dict:
        """What a report shows of a scan."""
        return json.loads((self.records / f"{case}.page").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class How:
    """How scans are predicted into a folder.

    Attributes:
        formats: of the masks; None: NIfTI, and all of DICOM where the first image is DICOM.
        keep_identity: see `isanet_jax.prediction.write.write_outputs`.
        again: also scans that are done.
        batch: see `Predictor.probabilities_of_scans`.
        pack: makes what a report shows of a prediction; None: nothing.
        only: write this class alone.
        regions: case -> reference region -> its words, see
            `isanet_jax.quantify.reference.read_references`.
    """

    formats: Sequence[str] | None = None
    keep_identity: bool = False
    again: bool = False
    batch: int = 1
    pack: Callable[[Prediction], dict] | None = None
    only: str | None = None
    regions: Mapping[str, Mapping[str, Sequence[str]]] = dataclasses.field(default_factory=dict)

    def left(self, folder: Folder, scan: Scan, digest: str) -> bool:
        """Whether a scan is to be done yet."""
        return self.again or not folder.is_done(scan.case, digest, self.regions.get(scan.case))


def _listed(regions):
    """Regions as JSON has them."""
    return {name: list(words) for name, words in regions.items()}


def predict_many(
    predictor: Predictor, scans: Sequence[Scan], folder: Folder, how: How
) -> Iterator[tuple[Scan, dict | Exception]]:
    """Predicts scans; one is read, and one written, while another is computed.

    Args:
        predictor: the networks.
        scans: what there is to do; those that are done, or that another process works on, are left.
        folder: of the results.
        how: see `How`.

    Yields:
        (scan, its record or what went wrong), as they end.

    Raises:
        ConfigError: a scan has results of another model.
    """
    digest = predictor.maker.digest
    todo = [scan for scan in scans if how.left(folder, scan, digest)]
    with Claims(folder.records) as claims:
        stages = _Stages(predictor, folder, how, claims)
        threading.Thread(target=stages.read_all, args=(todo,), daemon=True).start()
        for _ in range(_WRITERS):
            threading.Thread(target=stages.write_all, daemon=True).start()
        try:
            yield from stages.outcomes()
        finally:
            stages.stop.set()


class _Stages:
    """Reading, computing and writing, each in threads of its own, a scan in between at most."""

    def __init__(self, predictor, folder, how, claims):
        self.predictor, self.folder, self.how, self.claims = predictor, folder, how, claims
        self.stop = threading.Event()
        self.read, self.computed, self.ended = queue.Queue(1), queue.Queue(1), queue.Queue()

    def read_all(self, scans):
        """Claims scans and reads them."""
        digest, kinds = self.predictor.maker.digest, self.predictor.settings.images
        for scan in scans:
            if self.stop.is_set():
                break
            if not self.claims.take(scan.case):
                continue
            if not self.how.left(self.folder, scan, digest):  # since the list
                self.claims.release(scan.case)
                continue
            begun = time.monotonic()
            try:
                images = read_images(scan, kinds, formats=self.how.formats or ())
            except Exception as error:
                images = error
            self.read.put((scan, images, begun))
        self.read.put(_END)

    def outcomes(self):
        """Computes until all is read; yields what is written, as it is."""
        more, writing = True, _WRITERS
        while more or writing:
            if more:
                more = self.compute()
            while writing and not (more and self.ended.empty()):
                item = self.ended.get()
                if item is _END:
                    writing -= 1
                else:
                    yield item

    def compute(self):
        """Predicts as many scans as are computed together; whether there may be more."""
        group, more = _group(self.read, self.predictor.devices)
        images = [one for _, one, _ in group if isinstance(one, Images)]
        found = iter(predict(self.predictor, images, batch=self.how.batch))
        for scan, one, begun in group:
            outcome = next(found) if isinstance(one, Images) else one
            self.computed.put((scan, outcome, begun))
        if not more:
            for _ in range(_WRITERS):
                self.computed.put(_END)
        return more

    def write_all(self):
        """Writes what is computed."""
        while (item := self.computed.get()) is not _END:
            scan, outcome, begun = item
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                only = self.how.only
                record = self._write(outcome if only is None else outcome.only(only), begun)
            except Exception as error:
                log = self.folder.path / "errors.log"
                record = failure_of(error, scan.case, log)
                _fail(self.folder, scan.case, record, log)
            self.claims.release(scan.case)
            self.ended.put((scan, record))
        self.ended.put(_END)

    def _write(self, prediction, begun):
        """Writes a prediction's masks, then its record; returns that."""
        images, formats = prediction.images, self.how.formats
        case = images.scan.case
        if formats is None:
            formats = ["nifti", *(of_dicom() if images.slices is not None else ())]
        if not prediction.mask.any():  # DICOM has no empty segmentation, and no report of none
            formats = [name for name in formats if name not in of_dicom()]
        paths = {name: self.folder.path / f"{case}{suffixes()[name]}" for name in formats}
        regions = self.how.regions.get(case, {})
        references = {name: of_words(images.pet, name, of) for name, of in regions.items()}
        page = None if self.how.pack is None else self.how.pack(prediction)
        keep = self.how.keep_identity
        write_outputs(prediction, paths, keep_identity=keep, overwrite=True)
        seconds = {"seconds": round(time.monotonic() - begun, 1)}
        record = {
            "model": prediction.maker.name,
            "digest": prediction.maker.digest,
            "outputs": [path.name for path in paths.values()],
            "lesions": prediction.lesions(),
            "patients": [row | seconds for row in prediction.patient(references)],
            "regions": _listed(regions),
            "warnings": list(prediction.warnings),
        }
        self.folder.write(case, record, page)
        return record


@functools.lru_cache(maxsize=1)
def _loaded(model, loading):
    """A worker's networks, which it keeps from scan to scan."""
    return Predictor(list(model), **dict(loading))


def predict_one(scan: Scan, *, model, loading: dict, folder, how: How) -> dict:
    """A scan predicted by a worker of a cluster; its record.

    Args:
        scan: what there is to do.
        model, loading: arguments of `Predictor`.
        folder: path of the results.
        how: see `How`.

    Raises:
        IsaNetError: what went wrong.
    """
    predictor = _loaded(tuple(model), tuple(sorted(loading.items())))
    for _, outcome in predict_many(predictor, [scan], Folder(folder), how):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    return {}  # another process has it, or did it


def _group(read, count):
    """([as many as are computed together], whether there may be more)."""
    group = []
    while len(group) < count:
        item = read.get()
        if item is _END:
            return group, False
        group.append(item)
    return group, True


def _fail(folder, case, error, log):
    """Keeps a failure: a line of errors.log, and a record that tables show."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {case}: {error}\n")
    folder.write(case, {"error": str(error)})


def keep_failures(folder: Folder, failures: Mapping[str, str]) -> None:
    """Keeps what could not become a scan, as predictions that failed are."""
    for case, reason in failures.items():
        _fail(folder, case, reason, folder.path / "errors.log")
