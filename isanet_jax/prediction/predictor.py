"""Trained networks, restored once and applied to many cases."""

import copy
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from nibabel.affines import apply_affine
from scipy import special

from isanet_jax import models
from isanet_jax.arguments import command
from isanet_jax.cases.case import Case
from isanet_jax.cases.grid import resample
from isanet_jax.cases.images import check_images, image_channels, unlabelled_case
from isanet_jax.cases.preparation import settings_of
from isanet_jax.classes import Classes
from isanet_jax.datasets.layout import Scan
from isanet_jax.dicom import Maker
from isanet_jax.distributed.mesh import compiler_options, devices_for, fill_up, make_mesh
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.files import is_bundle
from isanet_jax.kinds import KINDS, WIDE, CtWindow
from isanet_jax.network import guidance, systems
from isanet_jax.network.whole_volume import over_windows
from isanet_jax.pipeline.normalise import standardised, statistics_of
from isanet_jax.prediction.rules import default_rules, parse_rules, read_rules
from isanet_jax.prediction.windows import predict_windows
from isanet_jax.runs.bundle import as_tree, read_bundle
from isanet_jax.runs.checkpoint import load_params
from isanet_jax.runs.digest import digest_of, digest_of_text
from isanet_jax.settings import Config, changed, read_stored
from isanet_jax.training.step import make_predict
from isanet_jax.volume import Volume, bounds_mm

# Class -> (points where it is, points where it is not), RAS mm.
Clicks = Mapping[str, tuple[Sequence, Sequence]]


class Predictor:
    """The best checkpoint of a run, or of several as an ensemble: the mean of their probabilities.

    Attributes:
        descriptions: what each checkpoint says of its run: `config`, `preparation`, `split`,
            `progress`, `ct_windows`.
        settings: how all of them want a scan prepared.
        classes: names of those that are predicted.
        rules: class -> how its probability becomes a mask.
        seen: what the scans were like that the first was trained on, see
            `isanet_jax.cases.ranges.scan_ranges`.
        devices: how many volumes are computed at a time: one on each of JAX's devices, or on each
            group of devices that splits a volume, for a run that was trained so.

    Args:
        workdirs: folder of a run, or of several; a model that `isanet bundle` wrote, or the name
            of one in the package, is all of its networks.
        half: compute in bfloat16, whatever the network was trained in.
        checkpoint: the `best` one of each run, or the `latest`.
        rules: file that `isanet tune` wrote; None: those of a model, or one half for every class.

    Raises:
        CheckpointError: a run holds no checkpoint that fits, or a damaged one.
        ConfigError: runs on cases that were prepared differently; a file that holds no rules.
    """

    def __init__(
        self, workdirs: Sequence[Path], *, half=False, checkpoint: str = "best", rules=None
    ):
        self._members = []
        self.devices = 1
        self.descriptions = []
        if isinstance(workdirs, (str, Path)):
            workdirs = [workdirs]
        workdirs = [models.resolve(workdir) for workdir in workdirs]
        self._from = list(workdirs)
        predict_of = functools.cache(make_predict)  # runs of one config share what is compiled
        for workdir, graphdef, params, description in _loaded(workdirs, half, checkpoint):
            config = read_stored(description["config"])
            mesh = make_mesh(*devices_for(config))
            options = compiler_options(config, mesh)
            self.devices = math.lcm(self.devices, mesh.shape["data"])
            replicated = NamedSharding(mesh, PartitionSpec())
            data = config.data
            predict, once = (
                predict_of(
                    graphdef,
                    mesh,
                    tuple(data.kinds.items()),
                    of_volume=data.pet_is_of_volume,
                    ct_windows=ct_windows_of(description),
                    mirror=mirror,
                    guided_classes=data.guided_classes,
                    options=options,
                )
                for mirror in (config.mirrors_input, False)  # compiled where they are called
            )
            placed = jax.device_put(params, replicated)
            self._members.append(_Member(predict, once, placed, config))
            self.descriptions.append(description)
            first, this = (
                settings_of(self.descriptions[i]["preparation"]).to_json()
                | {"learnt": self._members[i].config.data.classes}
                for i in (0, -1)
            )
            if this != first:
                differences = ", ".join(
                    f"{name} {value} and {first[name]}"
                    for name, value in this.items()
                    if value != first[name]
                )
                raise ConfigError(
                    f"{workdir} and {workdirs[0]} were trained on cases prepared differently "
                    f"({differences}); an ensemble's networks must see the same images"
                )
        prepared = settings_of(self.descriptions[0]["preparation"])
        needed = {name for member in self._members for name in member.kinds}
        images = {name: kind for name, kind in prepared.images.items() if name in needed}
        self.settings = dataclasses.replace(prepared, images=images)
        self.classes = self._members[0].config.data.classes
        self.rules = self._rules(workdirs, rules)
        self.seen = self.descriptions[0].get("seen", {})

    @functools.cached_property
    def quick(self) -> "Predictor":
        """The same networks without mirror images: an eighth of the time, for who waits."""
        found = copy.copy(self)
        found._members = [
            member._replace(
                predict=member.once, config=changed(member.config, {"predict.mirror": False})
            )
            for member in self._members
        ]
        return found

    def _rules(self, workdirs, path):
        """Those of a file, or of a single model that has some."""
        if path:
            return read_rules(path, self.classes)
        if len(workdirs) == 1 and (stored := self.descriptions[0].get("rules")):
            return parse_rules(stored, self.classes, workdirs[0])
        return default_rules(self.classes)

    @property
    def networks(self) -> list[tuple[dict, dict]]:
        """(description, parameters) of each, as `isanet_jax.runs.bundle` takes them."""
        members = zip(self.descriptions, self._members, strict=True)
        return [(description, member.params) for description, member in members]

    @functools.cached_property
    def maker(self) -> Maker:
        """What outputs say made them: a model by its file's name, runs by their systems."""
        systems_ = [member.config.model.name for member in self._members]
        counted = [f"{n} x {name}" if n > 1 else name for name, n in Counter(systems_).items()]
        name = Path(self._from[0]).stem if is_bundle(self._from[0]) else " + ".join(counted)
        digests = [digest_of(member.params) for member in self._members]
        digest = digests[0] if len(digests) == 1 else digest_of_text(digests)
        return Maker(name, digest)

    @property
    def labels(self) -> Classes:
        """What the values of a mask stand for, of the classes that are predicted."""
        every = self.settings.classes
        return Classes({name: every.values[name] for name in self.classes})

    def probabilities(
        self, cases: Sequence[Case], *, batch: int = 1, progress=None
    ) -> list[np.ndarray]:
        """Probability of prepared cases, spread over the devices.

        Args:
            cases: as prepared; their images and statistics count only.
            batch: windows computed together, on each device.
            progress: see `isanet_jax.network.whole_volume.stitched`; None: not shown.

        Returns:
            For each, (D, H, W, classes) float32 on its own grid.
        """
        totals, bodies = [], [self._body(case) for case in cases]
        for member in self._members:
            of_cases = self._of_network(member, cases, bodies, batch, progress)
            for index, found in enumerate(of_cases):
                if index == len(totals):  # in place from here on: a whole body's is large
                    totals.append(found if found.flags.writeable else found.copy())
                else:
                    totals[index] += found
        for case, total in zip(cases, totals, strict=True):
            np.divide(total, len(self._members), out=total)
            self._lift(case, total)
        return totals

    def _lift(self, case, values):
        """Adds to a case's probability what its clicks do, in place; see `with_clicks`."""
        for number in range(len(self.classes)):
            lift = case.images.get(f"{guidance.LIFT}{number}")
            if lift is not None:
                values[..., number] = guidance.lifted(values[..., number], lift)

    def _body(self, case):
        """Where a whole case's body is, of which windows are predicted; None of other cases."""
        if self.settings.fit != "whole":
            return None
        first = next(iter(case.images))
        return KINDS[self.settings.images[first]].body(case.images[first])

    def _of_network(self, member, cases, bodies, batch, progress):
        """A network's probability of each case."""
        if member.config.data.patch_shape:
            both = zip(cases, bodies, strict=True)
            return (self._by_windows(member, *one, batch, progress) for one in both)
        images = fill_up(member.given(cases), len(cases) + -len(cases) % self.devices)
        return np.asarray(member.predict(member.params, images))[: len(cases)]

    def _by_windows(self, member, case, body, batch, progress):
        """A network's probability of a case that is larger than it sees at once.

        Of a whole body, windows in the air are not computed: 0 there.
        """
        size = batch * self.devices
        return over_windows(
            # Window by window: as float32, a whole body's images would take as much again.
            lambda windows: self._padded(member, windows, case, size),
            {name: case.images[name] for name in (*member.kinds, *member.maps_in(case))},
            {name: KINDS[kind].outside for name, kind in member.kinds.items()}
            | dict.fromkeys(member.maps_in(case), 0.0),
            member.config.data.input_shape,
            len(self.classes),
            body=body,
            mirror=member.config.predict.mirror and not member.config.mirrors_input,
            batch=size,
            progress=progress,
        )

    @staticmethod
    def _padded(member, windows, case, size):
        """The probability of a case's windows, filled up to the batch that is compiled."""
        windows = member.standardised(dataclasses.replace(case, images=windows))
        count = len(next(iter(windows.values())))
        return np.asarray(member.predict(member.params, fill_up(windows, size)))[:count]

    def compile(self, *, clicks: bool = False) -> None:
        """Compiles the networks for the first scan, or click, while something else is done."""
        for member in self._members:
            volume = np.zeros((self.devices, *member.config.data.input_shape), np.float32)
            images = dict.fromkeys(member.kinds, volume)
            maps = guidance.names(member.config.data.guided_classes if clicks else 0)
            member.predict(member.params, images | dict.fromkeys(maps, volume))
            if maps:  # a click asks for the mask without it, too
                member.predict(member.params, images)

    def with_clicks(
        self, case: Case, affine: np.ndarray, clicks: Clicks, first: Volume | None = None
    ) -> Case:
        """The case with clicks.

        As maps, which those networks see that were trained with some, and as what they add to the
        answer of any (`isanet_jax.network.guidance.lift_of`).

        Args:
            case: on its grid.
            affine: (4, 4) of that, (D, H, W) to RAS+ mm.
            clicks: class -> (points where it is, points where it is not), (n, 3) RAS mm each.
            first: the mask without clicks, in `labels`' values on any grid; None: it is predicted.

        Raises:
            ConfigError: there is no such class.
        """
        if unknown := set(clicks) - set(self.classes):
            raise ConfigError(f"clicks of {unknown.pop()!r}; there are {', '.join(self.classes)}")
        inverse = np.linalg.inv(affine)
        voxels = {
            name: tuple(apply_affine(inverse, np.reshape(p, (-1, 3))) if len(p) else () for p in of)
            for name, of in clicks.items()
        }
        shape = next(iter(case.images.values())).shape
        maps = guidance.maps_of(shape, voxels, self.classes)
        voxels = {name: of for name, of in voxels.items() if any(map(len, of))}
        masks = self._first_masks(case, affine, first) if voxels else {}
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        for name, of in voxels.items():
            lift = guidance.lift_of(masks[name], *of, spacing_mm)
            maps[f"{guidance.LIFT}{self.classes.index(name)}"] = lift
        return dataclasses.replace(case, images={**case.images, **maps})

    def _first_masks(self, case, affine, first):
        """Class -> its mask without clicks."""
        if first is None:
            values = self.quick.probabilities([case])[0]
            return {name: values[..., n] >= 0.5 for n, name in enumerate(self.classes)}
        shape = next(iter(case.images.values())).shape
        placed = resample(first, shape, affine, order=0, fill=0)
        return {name: placed == self.labels.written[name] for name in self.classes}

    def around(
        self,
        case: Case,
        affine: np.ndarray,
        point: np.ndarray,
        clicks: Clicks,
        first: Volume | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The probability in one window around a click, of a case that is larger than a window.

        Args:
            case: on its grid, without clicks.
            affine: (4, 4) of that, (D, H, W) to RAS+ mm.
            point: RAS mm.
            clicks, first: see `with_clicks`.

        Returns:
            (d, h, w, classes), its affine, and (d, h, w) float32: 1 but for an eighth at each side
            that is not the case's own, where the window sees too little.
        """
        shape = np.array(next(iter(case.images.values())).shape)
        window = np.max([member.config.data.input_shape for member in self._members], axis=0)
        window = np.minimum(window, shape)
        at = apply_affine(np.linalg.inv(affine), point)
        start = np.clip(np.rint(at - window / 2).astype(int), 0, shape - window)
        part = tuple(slice(a, a + n) for a, n in zip(start, window, strict=True))
        place = affine.copy()
        place[:3, 3] += affine[:3, :3] @ start
        images = {name: image[part] for name, image in case.images.items()}
        shown = self.with_clicks(dataclasses.replace(case, images=images), place, clicks, first)
        inner = np.ones(window, np.float32)
        for axis in range(3):
            edge, along = window[axis] // 8, np.moveaxis(inner, axis, 0)
            along[: edge if start[axis] else 0] = 0
            along[len(along) - edge if part[axis].stop < shape[axis] else len(along) :] = 0
        return self.probabilities([shown])[0], place, inner

    def probabilities_of_scans(
        self,
        images: Sequence[tuple[Scan, Mapping[str, Volume]]],
        *,
        batch: int = 1,
        progress=None,
        clicks: Sequence[Clicks] | None = None,
    ) -> list[tuple[list[Volume], list[str]] | Exception]:
        """Probability of scans on their first images' own grids, spread over the devices.

        A network of fixed spacing sees a scan without a box in windows over the whole of it.

        Args:
            images: of each scan (scan, name -> volume): the scan gives the box and the names for
                errors.
            batch: windows computed together, on each device.
            progress: see `isanet_jax.network.whole_volume.stitched`; None: not shown.
            clicks: of each scan, see `with_clicks`; None: none.

        Returns:
            For each scan its probability, a volume for each class, and warnings about it, or the
            error that it has met: a DataError, or whatever else was raised.
        """
        found, cases = {}, {}
        for index, (scan, volumes) in enumerate(images):
            try:
                own = clicks[index] if clicks else {}
                if self._needs_windows(scan):
                    found[index] = self._probability_of_field(
                        scan, volumes, batch, progress, clicks=own
                    )
                    continue
                channels, affine, warnings = image_channels(scan, volumes, self.settings)
                case = unlabelled_case(channels, self.settings)
                if own:
                    case = self.with_clicks(case, affine, own)
                if self.settings.fit == "whole":
                    values = self.probabilities([case], batch=batch, progress=progress)[0]
                    found[index] = _on_scan(scan, volumes, values, affine), warnings
                else:
                    cases[index] = case, affine, warnings
            except Exception as error:
                found[index] = error
        if cases:
            try:
                values = self.probabilities([case for case, _, _ in cases.values()])
            except Exception as error:
                return [found.get(index, error) for index in range(len(images))]
            for (index, (_, affine, warnings)), value in zip(cases.items(), values, strict=True):
                try:
                    found[index] = _on_scan(*images[index], value, affine), warnings
                except Exception as error:
                    found[index] = error
        return [found[index] for index in range(len(images))]

    def _needs_windows(self, scan):
        return (
            scan.box_mm is None and self.settings.fit == "crop" and self.settings.region == "given"
        )

    def _probability_of_field(self, scan, volumes, batch, progress, *, clicks):
        warnings = check_images(scan, volumes, self.settings.images)
        values, affine = predict_windows(
            lambda cases: np.stack(self.probabilities(cases)),
            volumes,
            self.settings,
            classes=len(self.classes),
            batch=batch * self.devices,
            progress=progress,
            where={"case": scan.case, "file": scan.place},
            guide=functools.partial(self.with_clicks, clicks=clicks) if clicks else None,
        )
        return _on_scan(scan, volumes, values, affine), warnings


class _Member(NamedTuple):
    """One of an ensemble's networks.

    Attributes:
        predict: compiled, of `isanet_jax.training.step.make_predict`.
        once: the same without mirror images.
        params: its parameters.
        config: of its run.
    """

    predict: Callable
    once: Callable
    params: dict
    config: Config

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of its images, by name, in the order of its channels."""
        return self.config.data.kinds

    def standardised(self, case):
        """A case's images, or windows of them, as this network is given them."""
        images = {name: case.images[name] for name in self.kinds}
        known = statistics_of(case, self.kinds, self.config.data.pet_scale)
        of_volume = self.config.data.pet_is_of_volume
        found = standardised(images, known, self.kinds, of_volume=of_volume)[0]
        return found | {name: case.images[name] for name in self.maps_in(case)}

    def maps_in(self, case):
        """Names of the maps of clicks that a case has and this network takes."""
        wanted = guidance.names(self.config.data.guided_classes)
        return [name for name in wanted if name in case.images]

    def given(self, cases):
        """Cases of one shape together: name -> (n, D, H, W)."""
        of_cases = [self.standardised(case) for case in cases]
        none = np.zeros(next(iter(cases[0].images.values())).shape, np.float32)
        every = dict.fromkeys(name for one in of_cases for name in one)
        return {name: np.stack([one.get(name, none) for one in of_cases]) for name in every}


def _on_scan(scan, volumes, values, affine) -> list[Volume]:
    """Probability (D, H, W, classes), checked, on the first image's grid, class by class."""
    check_finite(values, case=scan.case, file=scan.place)
    reference = next(iter(volumes.values()))
    return [to_grid_of(values[..., i], affine, reference) for i in range(values.shape[-1])]


def check_finite(probability: np.ndarray, *, case: str, file=None) -> None:
    """Raises DataError where a network's probability is not finite: "no tumour" does not follow."""
    bad = probability.size - np.count_nonzero(np.isfinite(probability))
    if bad:
        raise DataError(
            f"the network's probability is not finite in {bad} of {probability.size} voxels",
            case=case,
            file=file,
            wanted="a probability in each",
            action=f"Look at the network: does {command('eval')} score it? Else train it again",
        )


def ct_windows_of(description: dict) -> tuple[CtWindow, ...]:
    """How a trained network is shown its CT; its description is of any version of this program."""
    several = description.get("ct_windows") or [description.get("ct_window", WIDE)]
    return tuple(CtWindow(*window) for window in several)


def _loaded(workdirs, half, checkpoint):
    """(where it is from, structure, parameters, description) of each network."""
    for workdir in workdirs:
        if not is_bundle(workdir):
            yield workdir, *_load(workdir, half, checkpoint)
            continue
        bundle = read_bundle(workdir)
        for stored, arrays in bundle.networks:
            description = stored | {"rules": bundle.rules}
            systems.check_version(description, workdir)
            graphdef, abstract = _abstract(description, half)
            yield workdir, graphdef, as_tree(arrays, abstract, workdir), description


def _abstract(description, half):
    """A network's structure on the devices that there are, and the shapes of its parameters."""
    config = read_stored(description["config"])
    _, space = devices_for(config)  # not those that it was trained on
    model = systems.of_config(config, is_split=space > 1)
    if half:
        model = dataclasses.replace(model, dtype="bfloat16")
    return systems.create_abstract(model)


def _load(workdir, half, checkpoint):
    """A run's structure, best parameters and description."""
    structure = {}

    def make_params(description):
        structure["graphdef"], params = _abstract(description, half)
        return params

    params, description = load_params(workdir, make_params, which=checkpoint)
    return structure["graphdef"], params, description


def entropy(probability: np.ndarray) -> np.ndarray:
    """Uncertainty of tumour or not, -p log2 p - (1-p) log2 (1-p): 0 where sure, 1 bit at p = 0.5.

    Args:
        probability: any shape; of an ensemble, the mean over its networks (predictive entropy).

    Returns:
        float32 of that shape.
    """
    p = np.clip(probability, 0, 1)  # interpolation may leave the interval by a rounding error
    return np.float32((special.entr(p) + special.entr(1 - p)) / np.log(2))


def to_grid_of(values: np.ndarray, affine: np.ndarray, reference: Volume) -> Volume:
    """Values of a case grid, trilinear, on the grid of an image; 0 outside the case's field.

    Args:
        values: (D, H, W), a probability or an SUV.
        affine: (4, 4) of the case grid.
        reference: gives the grid; its data's shape counts only.

    Returns:
        (I, J, K) float32 with the reference's geometry.
    """
    shape = reference.data.shape
    # Only the part that the case's field reaches: a box in a whole-body CT is small.
    low, high = bounds_mm(values.shape, np.linalg.inv(reference.affine) @ affine)
    start = np.clip(np.floor(low).astype(int), 0, shape)
    stop = np.clip(np.ceil(high).astype(int) + 1, start, shape)
    shifted = reference.affine.copy()
    shifted[:3, 3] += reference.affine[:3, :3] @ start
    data = np.zeros(shape, np.float32)
    if (stop > start).all():
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        part = resample(Volume(values, affine), stop - start, shifted, order=1, fill=0.0)
        data[box] = part
    return Volume(data, reference.affine, reference.header)
