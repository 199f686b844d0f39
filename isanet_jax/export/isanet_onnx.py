"""A PET/CT tumour mask from NIfTI files, by networks that `isanet export` wrote: this file alone.

    pip install numpy scipy nibabel onnxruntime
    python isanet_onnx.py --ct ct.nii.gz --pet pet.nii.gz --output mask.nii.gz

It stands beside model.json and the networks, and needs nothing else of isanet_jax: one may read it
to see all that happens to a scan, or build it into a program of one's own (`Model`). It computes
what `isanet predict` does, without its many checks of the images: give it CT in HU and PET in SUV.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import stat
import sys
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
from scipy import ndimage

# Value beyond an image, and what in it is the patient, by kind.
OUTSIDE = {"ct": -1024.0}
UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


# Of a click: what it adds to the logit, sigma in distances to the mask's surface, their largest.
LIFT = ("logit", "width", "furthest_mm")


# Scans and grids. Scans are (I, J, K) with an affine to RAS+ mm, cases (D, H, W): D from the feet
# to the head, H from front to back, W from the patient's right to left.


def read(path):
    """(voxels float32, affine to mm, header) of a NIfTI file."""
    image = nibabel.load(path)
    if image.get_data_dtype().kind not in "biuf":
        raise ValueError(f"{path}: one real number a voxel is needed, no complex one or colour")
    data = np.asarray(image.dataobj, np.float32)
    data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
    affine = np.array(image.affine, np.float64)
    affine[:3] *= UNIT_MM[image.header.get_xyzt_units()[0]]
    if data.ndim != 3 or not np.isfinite(data).all() or abs(np.linalg.det(affine)) < 1e-9:
        raise ValueError(f"{path}: one volume of finite values with its place in space is needed")
    if not (image.header["qform_code"] or image.header["sform_code"]):
        raise ValueError(f"{path}: its qform and sform codes are 0: it has no place in space")
    return data, affine, image.header


def write(path, data, header):
    """Writes a volume with the geometry of another's header, and nothing else of it."""
    geometry = nibabel.Nifti1Header(endianness="<")
    for field in GEOMETRY:
        geometry[field] = header[field]
    geometry.set_data_shape(data.shape)
    geometry.set_data_dtype(data.dtype)
    nibabel.save(nibabel.Nifti1Image(data, None, geometry), path)


def bounds(shape, affine):
    """(2, 3): lower and upper corner of the voxels' outer edges."""
    ends = np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij")
    world = np.stack(ends, -1).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    return np.stack([world.min(0), world.max(0)])


def grid_affine(shape, low, high):
    """Affine of a (D, H, W) grid that fills a box."""
    x, y, z = (high - low) / np.array(shape)[::-1]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = z, -y, -x, 1.0
    affine[:3, 3] = high[0] - x / 2, high[1] - y / 2, low[2] + z / 2
    return affine


def resample(data, affine, shape, target, fill):
    """Trilinear values at another grid's voxels, and `fill` beyond the outer edges."""
    matrix = np.linalg.inv(affine) @ target
    matrix = np.where(abs(matrix - matrix.round()) < 1e-9, matrix.round(), matrix)
    out = np.empty(tuple(map(int, shape)), np.float32)
    slab = max(2**22 // max(out.shape[1] * out.shape[2], 1), 1)
    for first in range(0, out.shape[0], slab):
        part, shifted = out[first : first + slab], matrix.copy()
        shifted[:, 3] += first * matrix[:, 0]
        place = shifted[:3, :3], shifted[:3, 3]
        ndimage.affine_transform(data, *place, part.shape, part, order=1, mode="nearest")
        axes, inside = np.ogrid[tuple(map(slice, part.shape))], np.ones(part.shape, bool)
        for row, length in zip(shifted, data.shape, strict=False):
            at = sum((row[i] * axes[i] for i in range(3) if row[i]), row[3])
            inside &= (at >= -0.5 - 1e-6) & (at <= length - 0.5 + 1e-6)
        part[~inside] = fill
    return out


def to_scan(values, affine, shape, target):
    """Values of a case, trilinear, on a scan's grid; 0 outside the case's field."""
    low, high = bounds(values.shape, np.linalg.inv(target) @ affine)
    start = np.clip(np.floor(low).astype(int), 0, shape)
    stop = np.clip(np.ceil(high).astype(int) + 1, start, shape)
    shifted, out = target.copy(), np.zeros(shape, np.float32)
    shifted[:3, 3] += target[:3, :3] @ start
    if (stop > start).all():
        box = tuple(map(slice, start, stop))
        out[box] = resample(values, affine, stop - start, shifted, 0.0)
    return out


# Where the patient is.


def is_body(values, kind):
    """Which voxels are the patient's."""
    if kind in ("ct", "pet"):
        return values > {"ct": -300, "pet": 0.15}[kind]
    return values > 0.1 * np.percentile(values, 99)


def body_box(data, affine, kind):
    """The box of the patient and 10 mm around; the whole field where there is none."""
    field = bounds(data.shape, affine)
    step = np.maximum(4.0 // np.linalg.norm(affine[:3, :3], axis=0), 1).astype(int)
    parts, count = ndimage.label(is_body(data[tuple(slice(0, None, n) for n in step)], kind))
    if not count:
        return field
    sizes = np.bincount(parts.ravel())[1:]
    kept = list(itertools.compress(ndimage.find_objects(parts), sizes >= 0.01 * sizes.max()))
    low = np.array([min(box[axis].start for box in kept) for axis in range(3)])
    high = np.array([max(box[axis].stop for box in kept) for axis in range(3)])
    shape, shifted = np.minimum(high * step, data.shape) - low * step, affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ (low * step)
    found = bounds(shape, shifted) + np.array([[-10.0], [10.0]])
    return np.stack([np.maximum(found[0], field[0]), np.minimum(found[1], field[1])])


def head_box(pet, affine):
    """144 mm around the brain's lower end, of PET: as for cohorts without boxes."""
    smooth, index = ndimage.gaussian_filter(pet, 3), np.indices(pet.shape, sparse=True)
    height = sum(affine[2, i] * index[i] for i in range(3)) + affine[2, 3]
    top = height.max() - (height.max() - height.min()) / 3
    for threshold in (3.0, 0.1):
        parts, count = ndimage.label(smooth > threshold)
        sizes, reaching = np.bincount(parts.ravel()), np.zeros(count + 1, bool)
        reaching[np.unique(parts[height > top])] = True
        sizes[~reaching] = sizes[0] = 0
        if sizes.any():
            points = np.argwhere(parts == sizes.argmax()) @ affine[:3, :3].T + affine[:3, 3]
            x, y, _ = points.mean(0)
            low = np.array([x - 72.0, y + 30.0 - 72.0, points[:, 2].min() - 114.0])
            return np.stack([low, low + 144.0])
    centre = affine[:3, :3] @ ((np.array(pet.shape) - 1) / 2) + affine[:3, 3]
    return np.stack([centre - 72.0, centre + 72.0])


# Windows.


def starts_of(shape, window):
    """Starts of windows that overlap by half or more."""
    lines = []
    for n, p in zip(shape, window, strict=True):
        count = -(-2 * (n - p) // p) + 1
        lines.append([round(i * (n - p) / max(count - 1, 1)) for i in range(count)])
    return list(itertools.product(*lines))


def stitched(predict, shape, window, classes, is_needed=None):
    """The mean of windows with Gaussian weights; `predict`: start -> (*window, classes)."""
    starts = starts_of(shape, window)
    lines = [np.exp(-0.5 * np.square((np.arange(p) - p // 2) / (p / 8))) for p in window]
    weights = (lines[0][:, None, None] * lines[1][:, None] * lines[2]).astype(np.float32)
    weights = (weights if len(starts) > 1 else np.ones(window, np.float32))[..., None]
    total, weight = np.zeros((*shape, classes), np.float32), np.zeros((*shape, 1), np.float32)
    for start in starts:
        if is_needed is None or is_needed(start):
            box = tuple(slice(a, a + p) for a, p in zip(start, window, strict=True))
            total[box] += predict(start) * weights
            weight[box] += weights
    return np.divide(total, weight, out=total, where=weight > 0)


# What is said of a model, which anybody may have written.


def content_of(path, most):
    """The bytes of an ordinary file, not of a device or a pipe that never ends."""
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | NO_WAIT)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError(f"{path} is no ordinary file of at most {most} bytes")
        return file.read(most)


def is_number(value, low, high):
    """Whether it is a finite number in a range."""
    return type(value) in (int, float) and low <= value <= high


def is_three(value, low, high):
    """Whether it is one such number, or three."""
    several = isinstance(value, list) and len(value) == 3
    return all(is_number(v, low, high) for v in (value if several else [value]))


def check(about):
    """Raises ValueError where model.json says what cannot be meant."""
    try:
        if about["format"] > 1:
            raise ValueError("it is of a newer version: take the isanet_onnx.py beside it")
        bad, settings = [], about["settings"]
        names = list(about["rules"])
        kinds = {"ct", "pet", "mr", "other"}
        for what, fits in (
            ("size", settings["size"] is None or is_three(settings["size"], 1, 4096)),
            ("spacing_mm", is_three(settings["spacing_mm"], 0.1, 20)),
            ("fit", settings["fit"] in ("crop", "resize", "whole")),
            ("region", settings["region"] in ("given", "head")),
            ("images", settings["images"] and kinds.issuperset(settings["images"].values())),
            ("rules", names),
            ("values", about["values"].keys() == set(names)),
            ("values", all(is_number(v, 1, 65535) for v in about["values"].values())),
            ("networks", about["networks"]),
        ):
            bad += [] if fits else [what]
        for name, rule in about["rules"].items():
            fits = is_number(rule["threshold"], 1e-9, 1) and type(rule["largest_only"]) is bool
            fits &= all(is_number(rule[n], 0, 1e6) for n in ("smallest_ml", "least_suv_max"))
            bad += [] if fits and len(rule) == 4 else [f"the rule of {name}"]
        for number, network in enumerate(about["networks"]):
            fits = re.fullmatch(r"network\d{1,4}\.\w{1,20}", network["file"])
            fits = fits and len(network["shape"]) == 3 and is_three(network["shape"], 1, 4096)
            fits = fits and network["images"].items() <= settings["images"].items()
            switches = (network[n] for n in ("scales_pet", "skips_air", "mirror"))
            fits = fits and all(type(switch) is bool for switch in switches)
            maps = network.get("click_maps", [])  # earlier exports know no clicks
            fits = fits and maps in ([], [f"guidance{i}" for i in range(2 * len(names))])
            fits = fits and (not maps or is_number(network["click_sigma"], 0.1, 100))
            bad += [] if fits and isinstance(network["pet_scale"], str) else [f"network {number}"]
        lift = about.get("click_lift")
        fits = lift is None or all(is_number(lift[n], 0.01, 100) for n in LIFT)
        bad += [] if fits else ["click_lift"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"model.json is damaged ({type(error).__name__}: {error})") from None
    if bad:
        raise ValueError(f"model.json is damaged: {', '.join(bad)} cannot be so; export it again")


class Model:
    """What `isanet export` wrote.

    Args:
        folder: that holds model.json.
        threads: of onnxruntime; 0: its own choice.
        providers: of onnxruntime, as CUDAExecutionProvider.

    Raises:
        ValueError: a file that is not the one that was written.
    """

    def __init__(self, folder, threads=0, providers=("CPUExecutionProvider",)):
        about = json.loads(content_of(Path(folder) / "model.json", 2**20))
        check(about)
        self.settings, self.networks = about["settings"], about["networks"]
        self.images, self.rules = self.settings["images"], about["rules"]
        self.values, self.lift = about["values"], about.get("click_lift")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = []
        for network in self.networks:
            content = content_of(Path(folder) / network["file"], 2**33)
            if hashlib.sha256(content).hexdigest() != network["sha256"]:
                raise ValueError(f"{network['file']} is not what was exported; copy it again")
            made = onnxruntime.InferenceSession(content, options, providers=list(providers))
            self.sessions.append(made)

    def probability(self, scans, box=None, clicks=None):
        """Class -> probability on the first image's grid.

        Args:
            scans: name -> (voxels, affine), CT in HU, PET in SUV.
            box: (2, 3) corners in RAS mm of what is looked at; None: found, or all of it.
            clicks: class -> (points where it is, points where it is not), RAS mm; None: none.

        Raises:
            ValueError: images that are not of one patient, or clicks that cannot be.
        """
        clicks = self._checked(clicks or {})
        settings, names = self.settings, list(self.images)
        data, affine = scans[names[0]]
        shape = data.shape
        for name in names[1:]:
            ends = bounds(shape, affine), bounds(scans[name][0].shape, scans[name][1])
            if (np.minimum(ends[0][1], ends[1][1]) <= np.maximum(ends[0][0], ends[1][0])).any():
                raise ValueError(f"{names[0]} and {name} do not overlap: are they of one patient?")
        size, spacing = self._three(settings["size"] or 1), self._three(settings["spacing_mm"])
        if box is None and settings["fit"] == "crop" and settings["region"] == "given":
            values, grid = self._field(scans, bounds(shape, affine), size, spacing, clicks)
        else:
            if box is None and settings["region"] == "head":
                pet = next(name for name, kind in self.images.items() if kind == "pet")
                box = head_box(*scans[pet])
            elif box is None and settings["fit"] == "whole":
                box = body_box(data, affine, self.images[names[0]])
            low, high = bounds(shape, affine) if box is None else np.asarray(box, float)
            if settings["fit"] == "whole":
                counts = np.maximum(np.ceil((high - low) / spacing - 1e-3).astype(int), 1)
                size = counts[::-1]
            if settings["fit"] != "resize":
                centre, half = (low + high) / 2, size[::-1] * spacing / 2
                low, high = centre - half, centre + half
            grid = grid_affine(size, low, high)
            values = self._of_case(self._resampled(scans, size, grid), grid, clicks)
        if not np.isfinite(values).all():
            raise ValueError("the network's probability is not finite")
        return {
            name: to_scan(values[..., i], grid, shape, affine) for i, name in enumerate(self.rules)
        }

    def masks(self, probability, affine, pet=None):
        """Class -> mask (bool), by the model's rules.

        Args:
            probability: class -> probability.
            affine: of its grid.
            pet: (voxels, affine), where a rule asks for SUV.
        """
        found, ml = {}, abs(np.linalg.det(affine[:3, :3])) / 1000
        for name, values in probability.items():
            rule = self.rules[name]
            mask = values >= rule["threshold"]
            parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
            volumes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * ml
            kept = volumes >= rule["smallest_ml"]
            if rule["least_suv_max"] and count:
                suv = resample(*pet, mask.shape, affine, 0.0)
                kept &= ndimage.maximum(suv, parts, range(1, count + 1)) >= rule["least_suv_max"]
            if rule["largest_only"] and kept.any():
                kept &= np.arange(count) == np.where(kept, volumes, -1).argmax()
            found[name] = np.concatenate([[False], kept])[parts]
        return found

    def labels(self, masks):
        """One array of all classes' values; later classes are drawn over earlier ones."""
        largest = max(self.values.values())
        shape = next(iter(masks.values())).shape
        out = np.zeros(shape, np.uint8 if largest < 256 else np.uint16)
        for name, mask in masks.items():
            out[mask] = self.values[name]
        return out

    @staticmethod
    def _three(value):
        return np.array([value] * 3 if np.isscalar(value) else value)

    def _resampled(self, scans, shape, grid):
        """Images on a grid: CT in whole HU, others of whole bodies with 11 significant bits."""
        found = {}
        for name, kind in self.images.items():
            x = resample(*scans[name], shape, grid, OUTSIDE.get(kind, 0.0))
            if kind == "ct":
                x = np.clip(np.rint(x), -32768, 32767).astype(np.int16)
            elif self.settings["fit"] == "whole":
                bits = x.view(np.uint32) + np.uint32(1 << 12)
                x = (bits & np.uint32(0xFFFFE000)).view(np.float32)
            found[name] = x
        return found

    def _field(self, scans, ends, size, spacing, clicks):
        """Windows over a scan that is larger than the network's field, each a case of its own."""
        low, high = ends
        counts = np.maximum(np.ceil((high - low) / spacing - 1e-3).astype(int), size[::-1])
        centre, half = (low + high) / 2, counts * spacing / 2
        shape = tuple(int(n) for n in counts[::-1])
        grid = grid_affine(shape, centre - half, centre + half)

        def predict(start):
            shifted = grid.copy()
            shifted[:3, 3] += grid[:3, :3] @ np.array(start)
            return self._of_case(self._resampled(scans, size, shifted), shifted, clicks)

        return stitched(predict, shape, tuple(size.tolist()), len(self.rules)), grid

    def _of_case(self, images, grid, clicks):
        """Mean probability of all networks, (D, H, W, classes)."""
        first, statistics = next(iter(images)), {}
        body = is_body(images[first], self.images[first])
        for name, x in images.items():
            over_body = self.settings["fit"] == "whole" or self.images[name] in ("mr", "other")
            values = x[body] if over_body and body.any() else x
            mean = values.mean(dtype=np.float64)
            statistics[name] = float(mean), float(np.sqrt(np.square(values - mean).mean()))

        def mean(clicks, mirrors):
            total = 0
            for network, session in zip(self.networks, self.sessions, strict=True):
                maps = self._click_maps(network, clicks, body.shape, grid)
                one = network | {"mirror": network["mirror"] and mirrors}
                total = total + self._of_network(one, session, images | maps, statistics, body)
            return total / len(self.networks)

        values = mean(clicks, True)
        if clicks and self.lift:
            first = mean({}, False) >= 0.5
            for number, name in enumerate(self.rules):
                if name in clicks:
                    odds = np.exp(-self._lift_of(first[..., number], clicks[name], grid))
                    p = values[..., number]
                    values[..., number] = p / (p + (1 - p) * odds)
        return values

    def _lift_of(self, mask, clicks, grid):
        """What a class's clicks add to its logits: wide where they lie far from its surface."""
        inverse, spacing = np.linalg.inv(grid), np.linalg.norm(grid[:3, :3], axis=0)
        logit, width, furthest = (self.lift[name] for name in LIFT)
        reach, total = np.ceil(furthest / spacing).astype(int), np.zeros(mask.shape, np.float32)
        for points, is_here in zip(clicks, (True, False), strict=True):
            for point in points @ inverse[:3, :3].T + inverse[:3, 3]:
                at = np.rint(point).astype(int)
                low = np.clip(at - reach, 0, None)
                box = tuple(map(slice, low, np.clip(at + reach + 1, 0, mask.shape)))
                far = (np.argwhere(mask[box] == is_here) + low - point) * spacing
                distance = np.linalg.norm(far, axis=1).min(initial=furthest)
                sigma = width * max(distance, spacing.mean())
                d, h, w = (
                    np.exp(-0.5 * np.square((np.arange(n) - i) * mm / sigma)).astype(np.float32)
                    for n, i, mm in zip(mask.shape, point, spacing, strict=True)
                )
                ball = d[:, None, None] * h[:, None] * w
                total += ball * np.float32(logit if is_here else -logit)
        return total

    def _checked(self, clicks):
        """Clicks as arrays: class -> two of (n, 3)."""
        if clicks and not (self.lift or any(n.get("click_maps") for n in self.networks)):
            raise ValueError("this model takes no clicks")
        found = {}
        for name, of in dict(clicks).items():
            if name not in self.rules:
                raise ValueError(f"clicks of {name!r}; there are {', '.join(self.rules)}")
            try:
                here, away = (np.reshape(points, (-1, 3)) + 0.0 for points in of)
                is_fine = np.isfinite([*here.flat, *away.flat]).all()
            except (TypeError, ValueError):
                is_fine = False
            if not is_fine:
                raise ValueError(f"clicks of {name} are two lists of points: where it is, is not")
            found[name] = here, away
        return found

    def _click_maps(self, network, clicks, shape, grid):
        """What a network that takes clicks sees of them: name -> (D, H, W), Gaussians."""
        maps, inverse = [], np.linalg.inv(grid)
        for points in (p for name in self.rules for p in clicks.get(name, ((), ()))):
            maps.append(np.zeros(shape, np.float32))
            for point in np.asarray(points).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]:
                d, h, w = (
                    np.exp(-0.5 * np.square((np.arange(n) - at) / network["click_sigma"]))
                    for n, at in zip(shape, point, strict=True)
                )
                ball = d[:, None, None] * h[:, None] * w
                np.maximum(maps[-1], ball.astype(np.float32), out=maps[-1])
        names = network.get("click_maps", [])
        return dict(zip(names, maps, strict=True)) if names else {}

    def _of_network(self, network, session, images, statistics, body):
        window, kinds = tuple(network["shape"]), network["images"]
        names = [*kinds, *network.get("click_maps", [])]

        def standardised(name, x):
            x, kind = x.astype(np.float32), kinds.get(name, "clicks")
            if kind in ("ct", "clicks") or (kind == "pet" and network["scales_pet"]):
                return x  # the network does it
            is_fixed = kind == "pet" and network["pet_scale"] == "suv"
            mean, sd = map(np.float32, (0.0, 5.0) if is_fixed else statistics[name])
            return (x - mean) * (1 / np.sqrt(sd * sd + np.float32(1e-5)))

        def once(parts):
            given = {name: np.ascontiguousarray(x)[None] for name, x in parts.items()}
            return session.run(None, given)[0][0]

        def mirrored(predict, parts):
            """The mean over the eight mirror images, where the network was tried so."""
            total, flips = 0, itertools.product((False, True), repeat=3)
            for flip in flips if network["mirror"] else [(False,) * 3]:
                axes = [axis for axis in range(3) if flip[axis]]
                found = predict({name: np.flip(x, axes) for name, x in parts.items()})
                total = total + np.flip(found, axes)
            return total / (8 if network["mirror"] else 1)

        def at(start):
            return tuple(slice(a, a + p) for a, p in zip(start, window, strict=True))

        def windowed(parts):
            def predict(start):
                return once({name: x[at(start)] for name, x in parts.items()})

            return stitched(predict, next(iter(parts.values())).shape, window, len(self.rules))

        if not network["skips_air"]:
            parts = {name: standardised(name, images[name]) for name in names}
            return mirrored(once if body.shape == window else windowed, parts)
        # A whole body, in windows of it; those in the air are left out.
        room = [max(p - n, 0) for n, p in zip(body.shape, window, strict=True)]
        margins = [((r + 1) // 2, r // 2) for r in room]
        padded = {
            name: np.pad(images[name], margins, constant_values=OUTSIDE.get(kinds.get(name), 0.0))
            for name in names
        }
        is_there = np.pad(body, margins)

        def of_window(start):
            parts = {name: standardised(name, x[at(start)]) for name, x in padded.items()}
            return mirrored(once, parts)

        shape, classes = is_there.shape, len(self.rules)
        found = stitched(of_window, shape, window, classes, lambda start: is_there[at(start)].any())
        inside = zip(margins, body.shape, strict=True)
        return found[tuple(slice(a, a + n) for (a, _), n in inside)]


def main(arguments=None):
    """Runs the command line."""
    root = argparse.ArgumentParser(description="A tumour mask on the CT's grid, from NIfTI.")
    root.add_argument("--model", default=Path(__file__).parent, help="folder with model.json")
    root.add_argument("--ct", help="NIfTI, HU")
    root.add_argument("--pet", help="NIfTI, body-weight SUV")
    root.add_argument("--image", metavar="NAME=FILE", action="append", default=[], help="another")
    root.add_argument("--output", required=True, help="mask.nii.gz")
    root.add_argument("--probability", help="also write the likeliest class's probability here")
    names = ("X1", "X2", "Y1", "Y2", "Z1", "Z2")
    root.add_argument("--box", type=float, nargs=6, metavar=names, help="what to look at, LPS mm")
    root.add_argument("--clicks", metavar="JSON", help="a file: class -> [points where it is, "
                      "points where it is not], LPS mm, for a model that takes them")  # fmt: skip
    root.add_argument("--threads", type=int, default=0, help="0: onnxruntime's own choice")
    root.add_argument("--overwrite", action="store_true")
    args = root.parse_args(arguments)
    paths = dict(text.partition("=")[::2] for text in args.image)
    paths |= {name: path for name in ("ct", "pet") if (path := getattr(args, name))}
    written = [Path(path) for path in (args.output, args.probability) if path]
    try:
        for path in written:
            if path.exists() and not args.overwrite:
                raise ValueError(f"{path} exists already; add --overwrite, or name another")
        model = Model(args.model, args.threads)
        if paths.keys() != model.images.keys():
            raise ValueError(f"this model takes {', '.join(model.images)}; give each of them")
        scans = {name: read(paths[name]) for name in model.images}
        box = None
        if args.box:
            x1, x2, y1, y2, z1, z2 = args.box  # LPS: x and y point the other way
            ends = np.array([[-x1, -y1, z1], [-x2, -y2, z2]])
            box = np.stack([ends.min(0), ends.max(0)])
        clicks = {}
        if args.clicks:
            given = model._checked(json.loads(content_of(args.clicks, 2**20)))
            clicks = {n: [points * [-1.0, -1.0, 1.0] for points in given[n]] for n in given}
        header = next(iter(scans.values()))[2]
        scans = {name: scan[:2] for name, scan in scans.items()}
        probability = model.probability(scans, box, clicks)
        affine = next(iter(scans.values()))[1]
        pets = [scans[name] for name, kind in model.images.items() if kind == "pet"]
        labels = model.labels(model.masks(probability, affine, *pets[:1]))
        if args.probability:
            write(args.probability, np.maximum.reduce(list(probability.values())), header)
        write(args.output, labels, header)
    except (ValueError, OSError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        sys.exit(f"error: {error}")
    ml = (labels > 0).sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    print(f"{args.output}: {ml:.2f} ml" + ("" if ml else "; EMPTY: no tumour found"))


if __name__ == "__main__":
    main()
