"""nnU-Net's raw format, as autoPET is published."""

import json
import logging
import re
from collections import Counter
from pathlib import Path

from isanet_jax.classes import TUMOUR, Classes
from isanet_jax.datasets.layout import (
    CASE_ID,
    PET_CT,
    Dataset,
    Found,
    Scan,
    cases_of,
    existing_folder,
    with_own_ids,
)
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.kinds import kind_of, shown

_log = logging.getLogger(__name__)


def read_nnunet(source, images=PET_CT, notes=None) -> list[Scan]:
    """nnU-Net's raw format, as autoPET is published: imagesTr, labelsTr, dataset.json.

    Args:
        source: the folder.
        images: name -> kind. An image is the channel of its name (whatever its case: `T1` is
            `t1`), else the only one of its kind: `SUV` or `PT` is the PET.
        notes: list that gets a line where dataset.json says of more cases; None: not asked for.

    Raises:
        DataError: no such folder or files, or a dataset.json that does not say which channels
            these are.
    """
    source = existing_folder(source, "an nnU-Net raw dataset")
    description = _nnunet_description(source)
    numbers = channel_numbers(source, images)
    ending = str(description.get("file_ending") or ".nii.gz")
    endings = {image: f"_{number:04d}{ending}" for image, number in numbers.items()}
    images_of, labels = source / "imagesTr", source / "labelsTr"
    found = cases_of(images_of.glob("*"), endings.values()) | cases_of(labels.glob("*"), [ending])
    stated_files = _stated_files(description, source, ending)
    scans = []
    for case in sorted({case for _, case in found} | set(stated_files)):
        autopet = re.fullmatch(r"(?:fdg|psma)_([0-9a-f]{8,})_.+", case)  # a patient's scans differ
        patient = autopet[1] if autopet else case
        files = {name: images_of / f"{case}{suffix}" for name, suffix in endings.items()}
        label, elsewhere = stated_files.get(case, (None, {}))
        files |= {name: elsewhere[n] for name, n in numbers.items() if n in elsewhere}
        label = label or labels / f"{case}{ending}"
        scans.append(Scan(_as_id(case), files, label, _as_id(patient)))
    if not scans:
        first = next(iter(endings.values()))
        raise DataError(f"no imagesTr/CASE{first}", file=source, wanted="an nnU-Net raw dataset")
    stated = description.get("numTraining")
    named = [case for _, case in sorted(found) if _as_id(case) != case]
    if notes is not None and named:
        notes.append(
            f"{len(set(named))} cases have names with other signs than IDs may have, which are '_' "
            f"here, such as {_as_id(named[0])}"
        )
    if notes is not None and isinstance(stated, int) and stated > len(scans):
        notes.append(f"dataset.json says numTraining {stated}, and {len(scans)} cases are here")
    return with_own_ids(scans)


def channel_numbers(source, images) -> dict[str, int]:
    """Image -> the number of its channel, as the dataset.json of a folder says.

    Raises:
        DataError: no dataset.json, or one that does not say which channels these are.
    """
    description = _nnunet_description(source)
    names = _numbered(description.get("channel_names") or description.get("modality"))
    channels = [(_as_name(str(name)), int(i)) for i, name in names.items() if str(i).isdigit()]
    numbers = {}
    for image, kind in images.items():
        called = {image, image.removeprefix("mr_")}  # `mr_t2` is the channel T2
        fitting = [number for name, number in channels if name in called]
        fitting = fitting or [number for name, number in channels if kind_of(name) == kind]
        if len(fitting) != 1:
            raise DataError(
                f"channels {json.dumps(names)}",
                file=source / "dataset.json",
                wanted=f"one channel in channel_names that is the {shown(image, kind)} ({image})",
                action="Name the channels in dataset.json, or the images with --images",
            )
        numbers[image] = fitting[0]
    return numbers


def _stated_files(description, source, ending):
    """Case -> (its label or None, number -> image): what `dataset` or `training` says of files.

    nnU-Net 2's `dataset` names every file of a case, wherever it lies; nnU-Net 1's `training` and
    the Decathlon's name an image without its channel, and a label that may lie in another folder.
    """
    found = {}
    several, listed = description.get("dataset"), description.get("training")
    for case, entry in several.items() if isinstance(several, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("images"), list):
            images = {n: source / str(path) for n, path in enumerate(entry["images"])}
            label = entry.get("label")
            found[str(case)] = source / label if isinstance(label, str) else None, images
    for entry in listed if isinstance(listed, list) else ():
        label = entry.get("label") if isinstance(entry, dict) else None
        image = str(entry.get("image", label)) if isinstance(entry, dict) else ""
        case = Path(image).name.removesuffix(ending)
        if isinstance(label, str) and case and (source / label).is_file():
            found.setdefault(case, (source / label, {}))
    return found


def _as_id(case):
    """A case's name as its ID: autoPET's have blanks, which name no files here."""
    return case if CASE_ID.fullmatch(case) else re.sub(r"[^A-Za-z0-9_.-]+", "_", case).lstrip(".-")


def _as_name(channel):
    """A channel's name as an image is called here."""
    return re.sub(r"[^a-z0-9]+", "_", channel.lower()).strip("_")


def nnunet_classes(source) -> Classes:
    """The classes of an nnU-Net dataset.json: its labels, or its regions in their order.

    Raises:
        DataError: labels that cannot be read as classes.
    """
    path = Path(source) / "dataset.json"
    description = _nnunet_description(Path(source))
    values, ignore = {}, ()
    for key, value in _numbered(description.get("labels")).items():
        # nnU-Net 1 has value -> name, nnU-Net 2 name -> value, or values where regions overlap.
        name, numbers = (value, [key]) if str(key).isdigit() else (key, value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        numbers = tuple(whole for n in numbers if (whole := _whole(n)) is not None)
        if str(name).strip().lower() == "ignore":
            ignore = numbers
        elif str(name).strip().lower() != "background" and set(numbers) - {0}:
            values[str(name)] = numbers
    values = _with_own_names(values, path)
    if len(values) <= 1:  # as every dataset with one class has it here
        values = {TUMOUR: next(iter(values.values()), (1,))}
    try:
        try:
            return Classes(values, ignore)
        except ConfigError:
            # Regions may stand in any order there; a mask of values has the wider ones first.
            wider_first = sorted(values.items(), key=lambda item: -len(item[1]))
            return Classes(dict(wider_first), ignore)
    except ConfigError as error:
        raise DataError(
            f"labels that are no classes here ({error})",
            file=path,
            action="Name them with --classes NAME=VALUE[,VALUE] ...",
        ) from error


def _whole(value):
    """A label's value, as 1, 1.0 or "1"; None of what is no whole number."""
    try:
        return int(value) if float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _with_own_names(values, path):
    """Labels as classes are called here; those that would be equal or empty get their values."""
    clean = {name: re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:24] for name in values}
    counts = Counter(clean.values())
    called = {}
    for name, numbers in values.items():
        own = clean[name]
        if not own or counts[own] > 1:
            own = f"{own or 'label'}_{'_'.join(map(str, numbers))}"[:31]
            _log.warning(f"warning: {path}: the label {name!r} is called {own} here")
        called[own] = numbers
    return called


def _numbered(names):
    """An object of dataset.json; a list, as some programs write it, is numbered from 0."""
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return names if isinstance(names, dict) else {}


def _nnunet_description(source):
    path = source / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read ({error})", file=path, wanted="nnU-Net's dataset.json"
        ) from error
    if not isinstance(description, dict):
        raise DataError("is not a JSON object", file=path, wanted="nnU-Net's dataset.json")
    return description


def _recognises(source):
    return (source / "dataset.json").is_file() and (source / "imagesTr").is_dir()


def _read(source, options):
    notes = []
    scans = read_nnunet(source, options.images, notes)
    return Found(scans, notes=tuple(notes))


DATASET = Dataset(
    "nnunet",
    "an nnU-Net raw dataset (autoPET)",
    _recognises,
    _read,
    classes=lambda source, scans: nnunet_classes(source),
)
