"""From DICOM in any order of folders and archives to one CT, one PET and one mask per study.

Series are put together by their attributes and references, never by file names.
"""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from isanet_jax.errors import DataError
from isanet_jax.scans.dicom import Series, find_series, one_series, read_image
from isanet_jax.scans.sources import Scan
from isanet_jax.scans.structures import read_region, referenced_series, region_names
from isanet_jax.scans.volume import Volume, replace_when_done, write_volume

CT_NAME, PET_NAME, MASK_NAME = "ct_hu.nii.gz", "pet_suv.nii.gz", "mask.nii.gz"
_RECORD = "conversion.json"


@dataclasses.dataclass(frozen=True)
class Study:
    """What one case is made of.

    Attributes:
        case, patient: IDs, without identity unless it was asked for.
        ct, pet: the chosen series.
        structures: the chosen RTSTRUCT or SEG, and the name of the region.
        region: its name.
        left: series that were not chosen, as text with the reason.
    """

    case: str
    patient: str
    ct: Series
    pet: Series
    structures: Series
    region: str
    left: tuple[str, ...]


def find_studies(series: list[Series], regions=(), *, keep_identity=False):
    """Chooses CT, PET and region of every study.

    Args:
        series: see `isanet_jax.scans.dicom.find_series`.
        regions: names to look for, the first that a study has counts; empty: its only one.
        keep_identity: IDs are the Patient IDs, also where these are not marked as de-identified.

    Returns:
        the studies; failures, case -> reason; and texts about what was left out as a whole.
    """
    groups = _group(series)
    by_patient = {}
    for group in groups:
        patient = str(group[0].first.get("PatientID") or group[0].first.StudyInstanceUID)
        by_patient.setdefault(patient, []).append(group)
    studies, failures, left, used = [], {}, [], set()
    for patient, members in sorted(by_patient.items()):
        members.sort(key=lambda g: (str(g[0].first.get("StudyDate") or ""), g[0].uid))
        name = _identity(patient, members, keep_identity)
        while name in used:  # two Patient IDs that differ in characters that no file may have
            name += "x"
        used.add(name)
        complete = [g for g in members if {"CT", "PET"} <= {s.kind for s in g}]
        for group in members:
            if not any(group is c for c in complete):
                kinds = ", ".join(s.describe() for s in group)
                left.append(f"{name}: no pair of CT and PET among {kinds}")
        for number, group in enumerate(complete, start=1):
            case = f"{name}_{number}" if len(complete) > 1 else name
            try:
                studies.append(_choose(case, name, group, regions))
            except DataError as error:
                failures[case] = str(error)
    return studies, failures, left


def _group(series):
    """Series that share a study or a frame of reference, or that reference one another."""
    groups = []
    for one in series:
        keys = {("study", str(one.first.StudyInstanceUID)), ("series", one.uid)}
        if one.frame:
            keys.add(("frame", one.frame))
        if one.kind in ("RTSTRUCT", "SEG"):
            keys |= {("series", uid) for uid in referenced_series(one.first)}
        keys = {(str(one.first.get("PatientID")), *key) for key in keys}
        joined, others = [one], []
        for members, known in groups:
            if keys & known:
                joined, keys = members + joined, keys | known
            else:
                others.append((members, known))
        groups = [*others, (joined, keys)]
    return [members for members, _ in groups]


def _identity(patient, groups, keep_identity):
    """A name for files: the Patient ID where it may be shown, else derived from the studies."""
    removed = all(
        str(s.first.get("PatientIdentityRemoved") or "").upper() == "YES" for g in groups for s in g
    )
    if keep_identity or removed:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", patient)
        return name if re.match(r"[A-Za-z0-9_]", name) else f"_{name}"
    secret = f"{patient} {groups[0][0].first.StudyInstanceUID}"
    return f"anon_{hashlib.sha256(secret.encode()).hexdigest()[:10]}"


def _choose(case, patient, group, regions):
    """The pair and region of one study.

    Raises:
        DataError: no region, or several and none asked for.
    """
    chosen, region = _structures(case, group, regions)
    referenced = referenced_series(chosen.first)

    def rank(one):
        number = int(one.first.get("SeriesNumber") or 0)
        return (one.uid not in referenced, -len(one.files), number, one.uid)

    pets = sorted((s for s in group if s.kind == "PET"), key=rank)
    corrected = [s for s in pets if "ATTN" in (s.first.get("CorrectedImage") or ())]
    pet = (corrected or pets)[0]
    cts = sorted(
        (s for s in group if s.kind == "CT"), key=lambda s: (s.frame != pet.frame, rank(s))
    )
    ct = cts[0]
    left = []
    for one in group:
        if not any(one is c for c in (ct, pet, chosen)):
            reasons = {"PET": "another PET", "CT": "another CT"}
            if one.kind == "PET" and corrected and one not in corrected:
                reasons["PET"] = "no attenuation correction"
            left.append(f"{one.describe()}: {reasons.get(one.kind, 'not needed')}")
    if ct.frame != pet.frame:
        left.append("CT and PET have different frames of reference: are they registered?")
    return Study(case, patient, ct, pet, chosen, region, tuple(left))


def _structures(case, group, regions):
    """(the RTSTRUCT or SEG, its region): on the CT where there are several."""
    kinds = {s.uid: s.kind for s in group}
    sets = [s for s in group if s.kind in ("RTSTRUCT", "SEG")]

    def on_ct(one):
        on = {kinds.get(uid) for uid in referenced_series(one.first)}
        return (0 if "CT" in on else 1 if "PET" in on else 2, one.uid)

    sets.sort(key=on_ct)
    for name in regions:
        for one in sets:
            if name in region_names(one.first):
                return one, name
    names = sorted({name for one in sets for name in region_names(one.first)})
    if not regions:
        for one in sets:
            if len(region_names(one.first)) == 1:
                return one, region_names(one.first)[0]
    raise DataError(
        f"regions {', '.join(names)}" if names else "no RTSTRUCT or SEG",
        case=case,
        wanted=f"a region called {' or '.join(regions)}" if regions else "one region",
        action="Name the tumour's region with --roi" if names else None,
    )


def convert_study(study: Study, folder: Path) -> tuple[Scan, list[str]]:
    """Writes a study's CT (HU), PET (SUV) and mask as NIfTI, or keeps what is there already.

    Args:
        study: see `find_studies`.
        folder: gets a folder of the case's name.

    Returns:
        the scan, and what to say about it.

    Raises:
        DataError: a series that cannot be read, or a file that cannot be written.
    """
    place = folder / study.case
    paths = {name: place / name for name in (CT_NAME, PET_NAME, MASK_NAME)}
    scan = Scan(study.case, paths[CT_NAME], paths[PET_NAME], paths[MASK_NAME], study.patient)
    record = {"inputs": _fingerprint(study), "region": study.region}
    path = place / _RECORD
    if path.exists() and all(p.exists() for p in paths.values()):
        try:
            if json.loads(path.read_text(encoding="utf-8")) == record:
                return scan, ["kept"]
        except ValueError:
            pass  # half written by an older program: made anew
    ct, _ = read_image(study.ct, case=study.case)
    pet, _ = read_image(study.pet, case=study.case)
    images = [study.ct, study.pet]
    mask, drawn_on = read_region(study.structures, study.region, images, case=study.case)
    write_image(paths[CT_NAME], ct)
    write_image(paths[PET_NAME], pet)
    write_image(paths[MASK_NAME], mask)
    with replace_when_done(path) as partial:
        partial.write_text(json.dumps(record), encoding="utf-8")
    on = drawn_on.kind if drawn_on else "its own grid"
    return scan, [
        f"{study.ct.describe()}, {study.pet.describe()}, {study.region!r} drawn on {on}",
        *(f"left {text}" for text in study.left),
    ]


def write_image(path, volume: Volume) -> None:
    """Writes a volume: a mask as uint8, whole values (CT) as int16, others as float32."""
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif np.array_equal(data, np.rint(data)) and np.abs(data).max() < 2**15:
        data = data.astype(np.int16)
    write_volume(path, Volume(data, volume.affine), overwrite=True)


def _fingerprint(study):
    """Of the instances that a conversion was made from."""
    digest = hashlib.sha256()
    for series in (study.ct, study.pet, study.structures):
        for file in series.files:
            status = file.path.stat()
            digest.update(f"{file.member} {status.st_size} {status.st_mtime_ns}".encode())
        digest.update(series.uid.encode())
    return digest.hexdigest()


def convert_files(output, *, ct=None, pet=None, rtstruct=None, region=None) -> list[str]:
    """Converts single series: `prepare.py convert`.

    Args:
        output: folder of `ct_hu.nii.gz`, `pet_suv.nii.gz` and `mask.nii.gz`.
        ct, pet: folder or archive of one series each, or None.
        rtstruct: RTSTRUCT or SEG, or None; without `ct` and `pet` its image is looked for in the
            folders around it.
        region: name in it; None: its only one.

    Returns:
        what to say.

    Raises:
        DataError: see the functions called.
    """
    output, lines, images = Path(output), [], []
    for source, kind, name in ((ct, "CT", CT_NAME), (pet, "PET", PET_NAME)):
        if source is None:
            continue
        series = one_series(source, kind)
        images.append(series)
        volume, _ = read_image(series)
        write_image(output / name, volume)
        low, high = volume.data.min(), volume.data.max()
        unit = "HU" if kind == "CT" else "SUV"
        lines.append(f"{output / name}: {volume.data.shape}, {low:.2f} to {high:.2f} {unit}")
    if rtstruct is None:
        return lines
    sets = [s for s in find_series(rtstruct)[0] if s.kind in ("RTSTRUCT", "SEG")]
    if len(sets) != 1:
        raise DataError(f"{len(sets)} RTSTRUCT or SEG", file=rtstruct, wanted="one file")
    if not images:
        images = _images_around(Path(rtstruct), sets[0])
    _, name = _structures(None, sets, (region,) if region else ())
    mask, drawn_on = read_region(sets[0], name, images)
    path = output / MASK_NAME
    write_image(path, mask)
    ml = mask.data.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    on = f"the {drawn_on.kind}'s grid" if drawn_on else "its own grid"
    lines.append(f"{path}: {name!r}, {mask.data.sum()} voxels, {ml:.2f} ml, on {on}")
    return lines


def _images_around(path, structures):
    """The image series that a structure set references, from its folder or the two above."""
    wanted = referenced_series(structures.first)
    for folder in list(path.resolve().parents)[: 1 if structures.kind == "SEG" else 3]:
        series = [s for s in find_series(folder)[0] if s.kind in ("CT", "PET")]
        fitting = [
            s for s in series if s.uid in wanted or (s.frame and s.frame == structures.frame)
        ]
        if fitting:
            return sorted(fitting, key=lambda s: s.uid not in wanted)
    return []
