"""nnU-Net's raw format, as autoPET is published."""

import json
import re
from pathlib import Path

from isanet_jax.datasets.layout import Dataset, Found, Scan, existing_folder, with_own_ids
from isanet_jax.errors import DataError
from isanet_jax.files import visible

_NNUNET_CHANNELS = {"CT": "CT", "PET": "PET", "PT": "PET", "SUV": "PET"}


def read_nnunet(source) -> list[Scan]:
    """nnU-Net's raw format, as autoPET is published: imagesTr, labelsTr, dataset.json.

    Raises:
        DataError: no such folder or files, or a dataset.json that does not say which channels are
            CT and PET.
    """
    source = existing_folder(source, "an nnU-Net raw dataset")
    description = _nnunet_description(source)
    names = _numbered(description.get("channel_names") or description.get("modality"))
    channels = {}
    for index, name in names.items():
        kind = _NNUNET_CHANNELS.get(str(name).strip().upper())
        if kind and str(index).isdigit():
            channels.setdefault(kind, []).append(int(index))
    if sorted(channels) != ["CT", "PET"] or any(len(v) > 1 for v in channels.values()):
        raise DataError(
            f"channels {json.dumps(names)}",
            file=source / "dataset.json",
            wanted="one channel called CT and one called PET, PT or SUV in channel_names",
            action="Name the channels in dataset.json",
        )
    ending = str(description.get("file_ending") or ".nii.gz")
    first = f"_{channels['CT'][0]:04d}{ending}"
    second = f"_{channels['PET'][0]:04d}{ending}"
    scans = []
    for ct in visible((source / "imagesTr").glob(f"*{first}")):
        case = ct.name.removesuffix(first)
        label = source / "labelsTr" / f"{case}{ending}"
        autopet = re.fullmatch(r"(?:fdg|psma)_([0-9a-f]{8,})_.+", case)  # a patient's scans differ
        patient = autopet[1] if autopet else case
        scans.append(Scan(case, ct, ct.with_name(f"{case}{second}"), label, patient))
    if not scans:
        raise DataError(f"no imagesTr/CASE{first}", file=source, wanted="an nnU-Net raw dataset")
    return with_own_ids(scans)


def nnunet_tumour_values(source) -> tuple[int, ...]:
    """The label values that an nnU-Net dataset.json calls neither background nor ignore."""
    labels = _numbered(_nnunet_description(Path(source)).get("labels"))
    values = set()
    for key, value in labels.items():
        # nnU-Net 1 has value -> name, nnU-Net 2 name -> value, or values where regions overlap.
        name, numbers = (value, [key]) if str(key).isdigit() else (key, value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if str(name).lower() not in ("background", "ignore"):
            values |= {int(n) for n in numbers if str(n).isdigit()}
    return tuple(sorted(values - {0})) or (1,)


def _numbered(names):
    """An object of dataset.json; a list, as some programs write it, is numbered from 0."""
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return names if isinstance(names, dict) else {}


def _nnunet_description(source):
    path = source / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read ({error})", file=path, wanted="nnU-Net's dataset.json"
        ) from error
    if not isinstance(description, dict):
        raise DataError("is not a JSON object", file=path, wanted="nnU-Net's dataset.json")
    return description


def _recognises(source):
    return (source / "dataset.json").is_file() and (source / "imagesTr").is_dir()


DATASET = Dataset(
    "nnunet",
    "an nnU-Net raw dataset with CT and PET (autoPET)",
    _recognises,
    lambda source, options: Found(read_nnunet(source)),
    classes=lambda source, scans: (nnunet_tumour_values(source), ()),
)
