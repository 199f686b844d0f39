"""From DICOM in any order of folders and archives to one CT, one PET and one mask per study.

Series are put together by their attributes and references, never by file names.
"""

import dataclasses
import datetime
import hashlib
import re

from isanet_jax.dicom.series import Series, lenient
from isanet_jax.dicom.structures import (
    find_region,
    referenced_series,
    region_names,
)
from isanet_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Study:
    """What one case is made of.

    Attributes:
        case, patient: IDs, without identity unless it was asked for.
        ct, pet: the chosen series.
        structures: the chosen RTSTRUCT or SEG, and the name of the region.
        region: its name.
        left: series that were not chosen, as text with the reason.
        notes: what to be warned of.
        also: names of further regions of the same structure set that belong to the mask.
    """

    case: str
    patient: str
    ct: Series
    pet: Series
    structures: Series
    region: str
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def regions(self) -> tuple[str, ...]:
        """The names of all regions that belong to the mask."""
        return (self.region, *self.also)

    def describe(self) -> str:
        """What was chosen and what was left, in a line."""
        referenced = referenced_series(self.structures.first)
        on = next((s.kind for s in (self.ct, self.pet) if s.uid in referenced), "its own grid")
        chosen = f"{self.ct.describe()}, {self.pet.describe()}, "
        chosen += f"{' and '.join(map(repr, self.regions))} drawn on {on}"
        return "; ".join([chosen, *(f"left {text}" for text in self.left)])


@lenient()
def find_studies(series: list[Series], regions=(), *, keep_identity=False, chosen=(), unite=False):
    """Chooses CT, PET and region of every study.

    Args:
        series: see `isanet_jax.dicom.series.find_series`.
        regions: names to look for, the first that a study has counts; empty: its only one.
        keep_identity: IDs are the Patient IDs, also where these are not marked as de-identified.
        chosen: Series Instance UIDs that are taken wherever they are among the possible ones.
        unite: a case's mask is all of `regions` together, which one structure set must have.

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
                studies.append(_choose(case, name, group, regions, (frozenset(chosen), unite)))
            except DataError as error:
                failures[case] = str(error)
    return studies, failures, left


def _group(series):
    """The series of each study; what a study lacks is looked for in incomplete ones.

    A structure set belongs to the images that it references. Studies without a CT or without a PET
    are put together where they share a frame of reference; complete ones are never mixed, since
    some anonymisers write one frame of reference into all studies of a patient.
    """
    studies, place = {}, {}
    for one in series:
        key = (str(one.first.get("PatientID")), str(one.first.StudyInstanceUID))
        studies.setdefault(key, []).append(one)
        if one.kind in ("CT", "PET"):
            place[key[0], one.uid] = key
    for key, members in list(studies.items()):
        for one in [s for s in members if s.kind in ("RTSTRUCT", "SEG")]:
            targets = {place.get((key[0], uid)) for uid in referenced_series(one.first)} - {None}
            if targets and key not in targets:
                members.remove(one)
                studies[min(targets)].append(one)
    groups = [(key[0], members) for key, members in studies.items() if members]
    complete = [g for g in groups if _is_complete(g[1])]
    joined = []
    for patient, own in (g for g in groups if not _is_complete(g[1])):
        members = list(own)
        frames = {s.frame for s in members} - {""}
        if not any(s.kind in ("CT", "PET") for s in members):
            fitting = [g for g in complete if g[0] == patient and frames & {s.frame for s in g[1]}]
            if len(fitting) == 1:
                fitting[0][1].extend(members)
                continue
        apart = []
        for other in joined:
            if other[0] == patient and frames & {s.frame for s in other[1]}:
                members = other[1] + members
                frames |= {s.frame for s in other[1]} - {""}
            else:
                apart.append(other)
        joined = [*apart, (patient, members)]
    return [members for _, members in complete + joined]


def _is_complete(members):
    return {"CT", "PET"} <= {s.kind for s in members}


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


def _choose(case, patient, group, regions, asked):
    """The pair and region of one study.

    Raises:
        DataError: no region, or several and none asked for; several series of which nothing says
            which one is meant.
    """
    chosen, unite = asked
    structures, region, notes = choose_structures(case, group, regions, asked)
    also = tuple(regions[1:]) if unite else ()
    referenced = referenced_series(structures.first)
    pets = [s for s in group if s.kind == "PET"]
    cts = [s for s in group if s.kind == "CT"]
    starts = [_start(s) for s in cts if _start(s)]

    def from_ct(one):
        """Quarters of an hour between a PET and the CT: a delayed one is a scan of its own."""
        start = _start(one)
        return (
            min((abs((start - s).total_seconds()) // 900 for s in starts), default=0)
            if (start)
            else 0
        )

    def is_derived(one):
        return "DERIVED" in {str(word).upper() for word in one.first.get("ImageType") or ()}

    corrected = [s for s in pets if "ATTN" in (s.first.get("CorrectedImage") or ())]
    pet = _decide(
        "PET",
        corrected or pets,
        [
            lambda s: s.uid not in referenced,
            is_derived,
            lambda s: s.frame not in {c.frame for c in cts},
            from_ct,
            lambda s: -len(s.files),
        ],
        case,
        chosen,
    )
    ct = _decide(
        "CT",
        cts,
        [
            lambda s: s.frame != pet.frame,
            lambda s: s.uid not in referenced,
            is_derived,
            lambda s: -len(s.files),
        ],
        case,
        chosen,
    )
    left = []
    for one in group:
        if not any(one is c for c in (ct, pet, structures)):
            reasons = {"PET": "another PET", "CT": "another CT"}
            if one.kind == "PET" and corrected and one not in corrected:
                reasons["PET"] = "no attenuation correction"
            left.append(f"{one.describe()}: {reasons.get(one.kind, 'not needed')}")
    if ct.frame != pet.frame:
        notes.append("CT and PET have different frames of reference: are they registered?")
    return Study(case, patient, ct, pet, structures, region, tuple(left), tuple(notes), also)


def _decide(what, candidates, criteria, case, chosen):
    """The one candidate that the criteria leave, each taking those of its smallest value.

    Raises:
        DataError: they leave several.
    """
    asked = [one for one in candidates if one.uid in chosen]
    left = asked or candidates
    for criterion in criteria:
        values = [criterion(one) for one in left]
        left = [one for one, value in zip(left, values, strict=True) if value == min(values)]
    if len(left) > 1:
        listed = "; ".join(f"{one.describe()}, UID {one.uid}" for one in left)
        raise DataError(
            f"{len(left)} {what} would do: {listed}",
            case=case,
            wanted="one, or what says which is meant (references, type, frame, times, approval)",
            action="Choose with --series UID",
        )
    return left[0]


def _start(one):
    """When a series was acquired, or None."""
    day = one.first.get("AcquisitionDate") or one.first.get("SeriesDate")
    clock = one.first.get("AcquisitionTime") or one.first.get("SeriesTime")
    try:
        text = f"{day}{str(clock).split('.')[0]}"
        return datetime.datetime.strptime(text[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def choose_structures(case, group, regions, asked=(frozenset(), False)):
    """(the RTSTRUCT or SEG, its region, notes): on the CT where there are several.

    A structure set that is approved goes before one that is not, and of two the newer one.
    """
    chosen, unite = asked
    kinds = {s.uid: s.kind for s in group}
    sets = [s for s in group if s.kind in ("RTSTRUCT", "SEG")]

    def on_ct(one):
        on = {kinds.get(uid) for uid in referenced_series(one.first)}
        return 0 if "CT" in on else 1 if "PET" in on else 2

    def approval(one):
        status = str(one.first.get("ApprovalStatus") or "").upper()
        return {"APPROVED": 0, "REJECTED": 2}.get(status, 1)

    def age(one):
        day = one.first.get("StructureSetDate") or one.first.get("SeriesDate") or "0"
        clock = one.first.get("StructureSetTime") or one.first.get("SeriesTime") or "0"
        digits = re.sub(r"\D", "", f"{day}{str(clock).split('.')[0]:0<6}")
        return -int(digits or 0)

    criteria = [on_ct, lambda s: s.kind == "RTSTRUCT", approval, age]
    for names in [regions] if unite and regions else [(name,) for name in regions]:
        having = [s for s in sets if all(find_region(s.first, n) is not None for n in names)]
        if having:
            name = names[0]
            best = _decide(f"structure sets with {name!r}", having, criteria, case, chosen)
            notes = []
            same = [s for s in having if s is not best and on_ct(s) == on_ct(best)]
            if same:
                notes.append(
                    f"{len(same)} other structure set(s) with {name!r} are older or not approved"
                )
            return best, name, notes
    names = sorted({name for one in sets for name in region_names(one.first)})
    if not regions and sets:
        nearest = min(map(on_ct, sets))
        first = [one for one in sets if on_ct(one) == nearest]
        own = {name for one in first for name in region_names(one.first)}
        if len(own) == 1:
            return choose_structures(case, first, tuple(own), asked)
    raise DataError(
        f"regions {', '.join(names)}" if names else "no RTSTRUCT or SEG",
        case=case,
        wanted=f"a region called {(' and ' if unite else ' or ').join(regions)}"
        if regions
        else "one region",
        action="Name the tumour's region with --roi" if names else None,
    )
