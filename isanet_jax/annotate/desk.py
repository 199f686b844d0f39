"""A reader's desk: scans, their images and masks, what the network says, and which comes next."""

import functools
import json
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from isanet_jax.annotate.store import Labels, Version
from isanet_jax.annotate.tools import followed, threshold_in_sphere, without_component
from isanet_jax.cases.grid import resample, same_grid
from isanet_jax.cases.images import image_channels, unlabelled_case
from isanet_jax.cases.label import read_label
from isanet_jax.cases.ranges import extent_of
from isanet_jax.classes import Classes
from isanet_jax.datasets.layout import PET_CT, Scan
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.files import write_json
from isanet_jax.kinds import pet_name
from isanet_jax.nifti import write_volume
from isanet_jax.prediction.result import Images, predict, read_images
from isanet_jax.prediction.sources import find_scans
from isanet_jax.volume import Volume

STRATEGIES = {
    "first": "the first scan without a mask",
    "random": "any of them",
    "uncertain": "the one that the networks are least sure of: the entropy of their mean",
    "unlike": "the one least like those that have masks",
}
_READ = 3  # scans whose images are kept in memory
_SPREAD = {"spacing": 1.0, "field": 50.0, "suv": 5.0}  # what counts as a difference of one


class Desk:
    """Scans to be annotated, and a folder that keeps what was done.

    Attributes:
        scans: case -> scan.
        kinds: name -> kind of the images.
        classes: what masks may hold.
        labels: the masks.
        predictor: the networks, or None.

    Args:
        sources: see `isanet_jax.prediction.sources.find_scans`.
        folder: of the masks and all else.
        predictor: `isanet_jax.prediction.predictor.Predictor`; None: there is no model yet.
        classes: without a model: name -> values.
    """

    def __init__(self, sources, folder, predictor=None, *, classes: Mapping | None = None):
        self.folder, self.predictor = Path(folder), predictor
        self.kinds = dict(predictor.settings.images if predictor else PET_CT)
        self.classes = predictor.labels if predictor else Classes(dict(classes or {"tumour": (1,)}))
        found = find_scans(sources, self.kinds)
        if not found.scans:
            raise DataError("; ".join(found.failures.values()), file=sources[0])
        self.scans: dict[str, Scan] = {scan.case: scan for scan in found.scans}
        self.failures = dict(found.failures)
        self._of_series = {
            series.uid: (scan.case, name)
            for scan in found.scans
            for name, series in (scan.study.images if scan.study else {}).items()
        }
        self.labels = Labels(self.folder / "labels")
        self._lock = threading.RLock()  # of the networks: one scan at a time
        self._images = functools.lru_cache(_READ)(self._read)
        self._predictions = {}  # (case, model's digest) -> what it said, of the last few
        self._prepared = functools.lru_cache(1)(self._prepare)

    # Images.

    def images(self, case: str) -> Images:
        """A scan's images. Raises DataError: no such case, or images that cannot be read."""
        if case not in self.scans:
            raise DataError(f"no case {case[:100]!r}", wanted=f"one of {len(self.scans)}")
        with self._lock:
            return self._images(case)

    def prepare_for_clicks(self) -> None:
        """Compiles beside all else what a click asks for, so that no first one waits."""
        if self.predictor is not None:
            quick = self.predictor.quick
            threading.Thread(target=quick.compile, kwargs={"clicks": True}, daemon=True).start()

    def _read(self, case):
        return read_images(self.scans[case], self.kinds)

    def parse(self, image: str) -> tuple[str, str]:
        """(case, name of the image) of an image's ID: `CASE` is the first, `CASE.pet` the PET.

        Or of DICOM its Series Instance UID, as a viewer of a DICOMweb server has it.
        """
        if image in self._of_series:
            return self._of_series[image]
        case, _, name = image.rpartition(".")
        if case in self.scans and name in self.kinds:
            return case, name
        if image in self.scans:
            return image, next(iter(self.kinds))
        raise DataError(
            f"no image {image[:100]!r}", wanted="CASE, CASE.NAME, or a Series UID of DICOM"
        )

    def uids(self, image: str) -> dict[str, str]:
        """A DICOM image's Study and Series Instance UID; of NIfTI none."""
        case, name = self.parse(image)
        if (study := self.scans[case].study) is None:
            return {}
        series = study.images[name]
        of_study = str(series.first.StudyInstanceUID)
        return {"StudyInstanceUID": of_study, "SeriesInstanceUID": series.uid}

    def write_image(self, image: str, path) -> None:
        """Writes an image as NIfTI."""
        case, name = self.parse(image)
        write_volume(path, self.images(case).volumes[name], overwrite=True)

    def grid(self, case: str) -> Volume:
        """The first image, on whose grid masks are."""
        return next(iter(self.images(case).volumes.values()))

    # Masks.

    def check_mask(self, case: str, path) -> Volume:
        """A mask's values on the case's grid, of whichever of its images' grids it is on.

        Raises:
            DataError: it is on none of them, or has values that are no class.
        """
        label = read_label(path, self.classes, case=case, placed=False)
        values = self._values_of(label.data)
        own = self.grid(case)
        if same_grid(label, own):
            return Volume(values, own.affine, own.header)
        for volume in self.images(case).volumes.values():
            if same_grid(label, volume):
                on_own = resample(
                    Volume(values, label.affine), own.data.shape, own.affine, order=0, fill=0
                )
                return Volume(on_own.astype(values.dtype), own.affine, own.header)
        shapes = ", ".join(f"{n} {v.data.shape}" for n, v in self.images(case).volumes.items())
        raise DataError(
            f"a mask of {label.data.shape} voxels of {np.round(label.spacing_mm, 3).tolist()} mm",
            case=case,
            wanted=f"the grid of one of its images: {shapes}",
            action="Save it on the grid of the image that was shown",
        )

    def _values_of(self, bits):
        """Values of a mask of bits; of several in a voxel, the last class counts."""
        masks = {name: (bits >> number) & 1 > 0 for number, name in enumerate(self.classes.names)}
        return self.classes.drawn(masks)

    def save(self, case: str, path, *, who="", tag="final", base=0) -> Version:
        """Keeps a mask that a client sent. Raises DataError, see `check_mask`."""
        return self.labels.save(case, self.check_mask(case, path), who=who, tag=tag, base=base)

    # The network.

    def prediction(self, case: str):
        """What the networks say of a scan. Raises ConfigError: there is no model."""
        if self.predictor is None:
            raise ConfigError("there is no model yet; use the threshold tool, then train one")
        key = case, self.predictor.maker.digest
        with self._lock:
            if key not in self._predictions:
                (found,) = predict(self.predictor, [self.images(case)])
                if isinstance(found, Exception):
                    raise found
                while len(self._predictions) >= _READ:
                    del self._predictions[next(iter(self._predictions))]
                self._predictions[key] = found
            return self._predictions[key]

    def near(self, case: str, point, clicks: Mapping, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What the networks say of a whole body around one of the clicks.

        Args:
            case: of the scan.
            point: RAS mm, of the click.
            clicks: see `isanet_jax.prediction.predictor.Predictor.with_clicks`.
            name: of the class.

        Returns:
            its mask, and where it is said, (I, J, K) bool each.
        """
        from isanet_jax.prediction.predictor import to_grid_of  # imports JAX

        quick, grid = self.predictor.quick, self.grid(case)
        key = case, self.predictor.maker.digest
        with self._lock:
            prepared, affine = self._prepared(*key)
            # A reader who opened a draft does not wait until all of the body is predicted.
            known = self._predictions.get(key)
            first = known and Volume(known.labels, known.affine)
            values, place, inner = quick.around(prepared, affine, np.asarray(point), clicks, first)
        inside = to_grid_of(inner, place, grid).data >= 0.5
        probability = to_grid_of(values[..., quick.classes.index(name)], place, grid).data
        mask = inside & (probability >= quick.rules[name].threshold)
        return inside & self._followed(case, mask, *clicks[name], within=inside), inside

    def _followed(self, case, mask, here, away, *, within=None):
        """A class's mask in which each click, within where it is said, is right."""
        grid, pet = self.grid(case), pet_name(self.kinds)
        suv = None if pet is None else self.images(case).volumes[pet]
        return followed(mask, grid, suv, here, away, within=within)

    def _prepare(self, case, digest):
        """A scan as the networks of this digest take it, and its affine."""
        images, settings = self.images(case), self.predictor.settings
        channels, affine, _ = image_channels(images.scan, images.volumes, settings)
        return unlabelled_case(channels, settings), affine

    @property
    def is_of_bodies(self) -> bool:
        """Whether the networks see scans in windows: a click is answered in one of them."""
        return self.predictor is not None and self.predictor.settings.fit == "whole"

    def guided(self, case: str, here, away, *, name: str | None = None) -> Volume:
        """The networks' mask with clicks, without mirror images: a reader waits for it.

        Where the networks do not follow a click, `isanet_jax.annotate.tools.followed` does.

        Of a whole body, what they say without clicks but for a window around each.

        Args:
            case: of the scan.
            here, away: (n, 3) RAS mm: where the class is, and where it is not.
            name: of the class; None: the first.

        Raises:
            ConfigError: there is no model, or no such class.
        """
        if self.predictor is None:
            raise ConfigError("there is no model yet")
        name = name or self.predictor.classes[0]
        clicks = {name: (here, away)}
        if self.is_of_bodies:
            found, value = self.infer(case), self.classes.written[name]
            for point in (*here, *away):
                mask, inside = self.near(case, point, clicks, name)
                _replace(found.data, value, mask, inside)
            return found
        with self._lock:
            (found,) = predict(self.predictor.quick, [self.images(case)], clicks=[clicks])
        if isinstance(found, Exception):
            raise found
        labels, value = found.labels.copy(), self.classes.written[name]
        _replace(labels, value, self._followed(case, labels == value, here, away))
        return Volume(labels, found.affine, self.grid(case).header)

    def infer(self, case: str) -> Volume:
        """The networks' mask."""
        found = self.prediction(case)
        return Volume(found.labels.copy(), found.affine, self.grid(case).header)

    def threshold(
        self,
        case: str,
        points: Sequence,
        away: Sequence = (),
        *,
        name: str | None = None,
        before=None,
        **how,
    ) -> Volume:
        """A mask from clicks alone: a sphere's threshold at each, components at `away` removed.

        Args:
            case: of the scan.
            points, away: voxels of the first image.
            name: of the class; None: the first.
            before: labels whose mask of the class it is added to; None: an empty one.
            how: see `isanet_jax.annotate.tools.threshold_in_sphere`.

        Raises:
            ConfigError: there is no PET.
        """
        grid, pet = self.grid(case), pet_name(self.kinds)
        if pet is None:
            raise ConfigError("there is no PET to threshold")
        suv = self.images(case).volumes[pet]
        value = self.classes.written[name or self.classes.names[0]]
        mask = np.zeros(grid.data.shape, bool) if before is None else before == value
        for point in points:
            ras = grid.affine[:3, :3] @ np.asarray(point, float) + grid.affine[:3, 3]
            mask = mask | threshold_in_sphere(suv, grid, ras, **how)
        for point in away:
            mask = without_component(mask, point)
        return Volume((mask * value).astype(np.uint8), grid.affine, grid.header)

    # What comes next.

    def unlabelled(self) -> list[str]:
        """Cases without a final mask, in their order."""
        done = set(self.labels.cases("final"))
        return [case for case in self.scans if case not in done]

    def ranked(self, strategy: str, *, seed: int | None = None) -> list[tuple[str, float | None]]:
        """(case, score) of those without a mask, the one to annotate first at the start.

        Raises:
            ConfigError: no such strategy, or one that needs a model.
        """
        cases = self.unlabelled()
        if strategy == "first":
            return [(case, None) for case in cases]
        if strategy == "random":
            random.Random(seed).shuffle(cases)  # noqa: S311 - of an order
            return [(case, None) for case in cases]
        if strategy not in STRATEGIES:
            raise ConfigError(f"no strategy {strategy!r}; choose from {', '.join(STRATEGIES)}")
        score = self.uncertainty if strategy == "uncertain" else self._unlikeness
        return sorted(((case, score(case)) for case in cases), key=lambda one: -one[1])

    def uncertainty(self, case: str) -> float:
        """Entropy of the networks' mean probability over what they may take for tumour, ml x bit.

        The sum over the volume: how much a reader would have to look at. It is kept for the model
        that it is of.
        """
        digest = self.predictor.maker.digest if self.predictor else ""
        path = self.folder / "uncertainty" / f"{case}.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["digest"] == digest:
                return float(known["uncertainty"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        found = self.prediction(case)
        ml = abs(np.linalg.det(found.affine[:3, :3])) / 1000
        value = float(found.uncertainty.sum(dtype=np.float64) * ml)
        write_json(path, {"digest": digest, "uncertainty": value})
        return value

    def _unlikeness(self, case):
        """Distance to the nearest case with a mask, in what describes a scan."""
        done = self.labels.cases("final")
        here = self._described(case)
        others = [self._described(other) for other in done if other in self.scans]
        return min((float(np.abs(here - other).sum()) for other in others), default=float("inf"))

    @functools.lru_cache(4096)  # noqa: B019 - as long as the desk
    def _described(self, case):
        grid, pet = self.grid(case), pet_name(self.kinds)
        spacing, field = extent_of(grid.affine, grid.data.shape)
        suv = float(self.images(case).volumes[pet].data.max()) if pet else 0.0
        return np.concatenate(
            [spacing / _SPREAD["spacing"], field / _SPREAD["field"], [suv / _SPREAD["suv"]]]
        )


def _replace(labels, value, mask, within=True):
    """Writes a class's mask over what the labels say of it, there."""
    labels[within & (labels == value)] = 0
    labels[mask] = value
