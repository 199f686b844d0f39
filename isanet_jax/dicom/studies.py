"""From DICOM in any order of folders and archives to the images and the regions of each study.

Series are put together by their attributes and references, never by file names.
"""

import dataclasses
import datetime
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from isanet_jax.classes import TUMOUR
from isanet_jax.dicom.image import one_series
from isanet_jax.dicom.series import CONVERT, IMAGE_KINDS, Series, find_series, lenient
from isanet_jax.dicom.structures import (
    find_region,
    find_regions,
    is_drawn,
    referenced_series,
    region_names,
)
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.kinds import shown


@dataclasses.dataclass(frozen=True)
class Study:
    """What one case is made of.

    Attributes:
        case, patient: IDs, without identity unless it was asked for.
        images: name -> the chosen series.
        structures: the chosen RTSTRUCT or SEG; None where none was asked for.
        regions: class -> names of its regions in there, which are united; () where it has none.
        left: series that were not chosen, as text with the reason.
        notes: what to be warned of.
    """

    case: str
    patient: str
    images: Mapping[str, Series]
    structures: Series | None
    regions: Mapping[str, tuple[str, ...]]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """What was chosen and what was left, in a line."""
        if self.structures is None:
            chosen = ", ".join(one.describe() for one in self.images.values())
            return "; ".join([chosen, *(f"left {text}" for text in self.left)])
        referenced = referenced_series(self.structures.first)
        on = next((s.kind for s in self.images.values() if s.uid in referenced), "its own grid")
        chosen = [one.describe() for one in self.images.values()]
        names = [name for of_class in self.regions.values() for name in of_class]
        chosen.append(f"{' and '.join(map(repr, names))} drawn on {on}")
        return "; ".join([", ".join(chosen), *(f"left {text}" for text in self.left)])


class Asked(NamedTuple):
    """What is looked for in each study.

    Attributes:
        images: name -> kind: a CT, a PET, and any number of MR, which their names' second word
            tells apart: `mr_t1` is the series whose description says so.
        regions: names of the tumour's region, the first that a study has counts; empty: its only
            one.
        unite: a case's mask is all of `regions` together, which one structure set must have.
        classes: name -> names of its regions, of which those that a study has are united; none:
            the tumour is the only class.
        chosen: Series Instance UIDs that are taken wherever they are among the possible ones.
        labelled: False: for prediction, without a structure set. A study that has some of the
            images and not all is a failure then.
    """

    images: Mapping[str, str] = MappingProxyType({"ct": "ct", "pet": "pet"})
    regions: tuple[str, ...] = ()
    unite: bool = False
    classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    chosen: frozenset[str] = frozenset()
    labelled: bool = True

    @property
    def kinds(self) -> set[str]:
        """The kinds of series that make a study; MR alone where nothing else is asked for."""
        kinds = {kind.upper() for kind in self.images.values()}
        return kinds - {"MR"} or kinds

    def check(self) -> None:
        """Raises ConfigError on images that DICOM cannot be asked for."""
        for kind in ("ct", "pet", "other"):
            names = [name for name, of in self.images.items() if of == kind]
            if len(names) > (kind != "other"):
                raise ConfigError(
                    f"the images {', '.join(names)} of DICOM: a study gives one CT, one PET, and "
                    "any MR. Convert it, and list the files in a table"
                )


@lenient()
def find_studies(series: list[Series], asked: Asked | None = None, *, keep_identity=False):
    """Chooses images and regions of every study.

    Args:
        series: see `isanet_jax.dicom.series.find_series`.
        asked: what is looked for; None: a CT, a PET and the only region.
        keep_identity: IDs are the Patient IDs, also where these are not marked as de-identified.

    Returns:
        the studies; failures, case -> reason; and texts about what was left out as a whole.

    Raises:
        ConfigError: see `Asked.check`.
    """
    asked = asked or Asked()
    asked.check()
    groups = _group(series, asked.kinds)
    wanted = " and ".join(sorted(asked.kinds))
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
        complete = [g for g in members if asked.kinds <= {s.kind for s in g}]
        if not asked.labelled:  # those that lack an image are told as failures, by name
            complete = [g for g in members if asked.kinds & {s.kind for s in g}]
        for group in members:
            if not any(group is c for c in complete):
                kinds = ", ".join(s.describe() for s in group)
                left.append(f"{name}: no {wanted} among {kinds}{_remedy(group)}")
        for number, group in enumerate(complete, start=1):
            case = f"{name}_{number}" if len(complete) > 1 else name
            try:
                studies.append(_choose(case, name, group, asked))
            except DataError as error:
                failures[case] = str(error)
    return studies, failures, left


def _remedy(group):
    """What to do where a study has what it lacks in a form that is not read."""
    if not any(one.kind.startswith("enhanced") for one in group):
        return ""
    return f". {CONVERT}"


def _group(series, kinds):
    """The series of each study; what a study lacks is looked for in incomplete ones.

    A structure set belongs to the images that it references. Studies that lack one of the kinds
    are put together where they share a frame of reference; complete ones are never mixed, since
    some anonymisers write one frame of reference into all studies of a patient.
    """
    studies, place = {}, {}
    for one in series:
        key = (str(one.first.get("PatientID")), str(one.first.StudyInstanceUID))
        studies.setdefault(key, []).append(one)
        if one.kind in IMAGE_KINDS:
            place[key[0], one.uid] = key
    for key, members in list(studies.items()):
        for one in [s for s in members if s.kind in ("RTSTRUCT", "SEG")]:
            targets = {place.get((key[0], uid)) for uid in referenced_series(one.first)} - {None}
            if targets and key not in targets:
                members.remove(one)
                studies[min(targets)].append(one)
    groups = [(key[0], members) for key, members in studies.items() if members]

    def is_complete(group):
        return kinds <= {s.kind for s in group[1]}

    complete = [g for g in groups if is_complete(g)]
    joined = []
    for patient, own in (g for g in groups if not is_complete(g)):
        members = list(own)
        frames = {s.frame for s in members} - {""}
        if not any(s.kind in kinds for s in members):
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


def _choose(case, patient, group, asked):
    """The images and regions of one study.

    Raises:
        DataError: no region, or several and none asked for; an image that is not there; several
            series of which nothing says which one is meant.
    """
    structures, regions, notes, referenced = None, {}, [], frozenset()
    if asked.labelled:
        structures, regions, notes = choose_structures(case, group, asked)
        referenced = referenced_series(structures.first)
    elif lacking := asked.kinds - {s.kind for s in group}:
        raise DataError(
            f"no {' and '.join(sorted(lacking))} among "
            f"{', '.join(s.describe() for s in group)}{_remedy(group)}",
            case=case,
        )
    images, told = choose_images(case, group, asked, referenced)
    notes += told
    name_of = {kind: name for name, kind in asked.images.items()}
    corrected = _corrected(group)
    left = []
    for one in group:
        if not any(one is taken for taken in (structures, *images.values())):
            reason = f"another {one.kind}" if one.kind.lower() in name_of else "not needed"
            if one.kind == "PET" and corrected and one not in corrected:
                reason = "no attenuation correction"
            left.append(f"{one.describe()}: {reason}")
    return Study(case, patient, images, structures, regions, tuple(left), tuple(notes))


def _corrected(group):
    """The PET series that are corrected for attenuation."""
    pets = (s for s in group if s.kind == "PET")
    return [s for s in pets if "ATTN" in (s.first.get("CorrectedImage") or ())]


def choose_images(case, group, asked, referenced=frozenset()):
    """The images of one study: (name -> series, notes).

    Args:
        case: for messages.
        group: its series, among them one of each kind that is asked for.
        asked: see `Asked`.
        referenced: UIDs of the series that its structures were drawn on.

    Raises:
        DataError: several series of which nothing says which one is meant.
    """
    notes = []
    name_of = {kind: name for name, kind in asked.images.items()}
    pets = [s for s in group if s.kind == "PET"]
    cts = [s for s in group if s.kind == "CT"]
    corrected = _corrected(group)
    images = {}
    if "pet" in name_of:
        images[name_of["pet"]] = _decide(
            "PET",
            corrected or pets,
            [
                lambda s: s.uid not in referenced,
                _is_derived,
                lambda s: bool(cts) and s.frame not in {c.frame for c in cts},
                lambda s: _apart(s, cts),
                lambda s: -len(s.files),
            ],
            case,
            asked.chosen,
        )
    if "ct" in name_of:
        frames = {s.frame for s in images.values()}
        images[name_of["ct"]] = _decide(
            "CT",
            cts,
            [
                lambda s: bool(frames) and s.frame not in frames,
                lambda s: s.uid not in referenced,
                _is_derived,
                lambda s: -len(s.files),
            ],
            case,
            asked.chosen,
        )
    for name in (name for name, kind in asked.images.items() if kind == "mr"):
        images[name], told = _choose_mr(case, name, group, images, asked.chosen)
        notes += told
    images = {name: images[name] for name in asked.images}
    (first, reference), *others = images.items()
    for name, one in others:
        if one.frame != reference.frame:
            both = (shown(n, asked.images[n]) for n in (first, name))
            notes.append(
                f"{' and '.join(both)} have different frames of reference: are they registered?"
            )
    return images, notes


def _is_derived(one):
    return "DERIVED" in {str(word).upper() for word in one.first.get("ImageType") or ()}


def _apart(one, cts):
    """Quarters of an hour between a PET and the CT: a delayed one is a scan of its own."""
    start, starts = _start(one), [_start(s) for s in cts if _start(s)]
    if not start:
        return 0
    return min((abs((start - s).total_seconds()) // 900 for s in starts), default=0)


# What MR is weighted by, or shows, as descriptions and the names of images say it.
_MR_WORDS = ("t1", "t2", "pd", "flair", "dwi", "adc", "stir", "swi", "dce")
_WEIGHTINGS = ("t1", "t2", "pd")  # of which an image has one
_NO_IMAGE = ("map", "mapping", "scout", "localizer", "loc")  # of what is no image of a weighting
_PLANES = ("ax", "sag", "cor", "tra", "fs")  # are written before a word without a blank
# Of spin echoes: no T1 has a long echo, and no T2 a short one; ms.
_LONG_ECHO, _SHORT_ECHO = 50.0, 30.0


def _has_word(text, word):
    """Whether a description has a word, whole: T1, T1w, AxT1 and T1+C have t1; T10 has not."""
    before = "|".join(["^", "[^a-z0-9]", *(f"(?:^|[^a-z]){plane}" for plane in _PLANES)])
    after = "(?![0-9])" if word[-1:].isdigit() else "(?![a-z])"
    return re.search(rf"(?:{before}){re.escape(word)}{after}", text) is not None


def _described(one):
    """What an MR series is called: by itself, or else by its protocol and its sequence, which are
    often the same for all series of an examination.
    """
    own = str(one.first.get("SeriesDescription") or "").lower()
    if any(_has_word(own, word) for word in _MR_WORDS):
        return own
    others = (str(one.first.get(key) or "") for key in ("ProtocolName", "SequenceName"))
    return " ".join([own, *others]).lower()


def _against(one, words):
    """Why an MR series is not what these words ask for; "" where nothing speaks against it."""
    text = _described(one)
    says = [word for word in _WEIGHTINGS if _has_word(text, word)]
    others = [word for word in says if word not in words]
    asked = [word for word in words if word in _WEIGHTINGS]
    if asked and others:
        return f"says {' and '.join(word.upper() for word in says)}"
    no_image = [word for word in _NO_IMAGE if _has_word(text, word) and word not in words]
    if no_image:
        return f"says {no_image[0]}"
    try:
        echo_ms = float(one.first.get("EchoTime") or 0)
    except (TypeError, ValueError):
        echo_ms = 0.0
    sequences = one.first.get("ScanningSequence") or ()
    sequences = [sequences] if isinstance(sequences, str) else list(sequences)
    if "SE" in sequences and echo_ms > 0:
        if "t1" in asked and echo_ms > _LONG_ECHO:
            return f"has an echo time of {echo_ms:g} ms, too long for T1"
        if "t2" in asked and echo_ms < _SHORT_ECHO and "IR" not in sequences:
            return f"has an echo time of {echo_ms:g} ms, too short for T2"
    return ""


def _choose_mr(case, name, group, images, chosen):
    """(the MR series of an image's name, notes): the one whose description has its words.

    Raises:
        DataError: none, one that is described as something else, or several.
    """
    series = [s for s in group if s.kind == "MR" and not any(s is i for i in images.values())]
    words = [word for word in name.split("_") if word not in ("mr", "mri")]
    against = {id(s): _against(s, words) for s in series}
    named = [s for s in series if all(_has_word(_described(s), word) for word in words)]
    matching = [s for s in named if not against[id(s)]]
    asked = [s for s in series if s.uid in chosen]
    # One that says nothing of itself may be it; one that says something else is not.
    silent = [s for s in series if not any(_has_word(_described(s), word) for word in _MR_WORDS)]
    silent = [s for s in silent if not against[id(s)]]
    possible = asked or matching or (silent if len(silent) == len(series) == 1 else [])
    if not possible:
        listed = "; ".join(
            f"{s.describe()}{f', which {why}' if (why := against[id(s)]) else ''}, UID {s.uid}"
            for s in series
        )
        raise DataError(
            f"no MR series is described as {' '.join(words) or 'MR'}"
            + (f" (found {listed})" if series else ""),
            case=case,
            wanted=f"one in the study, or in its frame of reference, for the image {name}",
            action="Choose with --series UID" if series else "Leave such cases out with --skip-bad",
        )
    frames = {s.frame for s in images.values()}
    criteria = [
        lambda s: bool(frames) and s.frame not in frames,
        _is_derived,
        lambda s: -len(s.files),
    ]
    is_guessed = not matching and not asked
    told = f"the only MR series is taken as {name}: nothing in it says what it is"
    return _decide(f"MR for {name}", possible, criteria, case, chosen), [told] * is_guessed


def _why_not(one, taken, corrected, chosen):
    """Why a series was not taken and another of its kind was, in a few words."""
    if taken.uid in chosen:
        return "the other was asked for"
    if one.kind == "PET" and one not in corrected and taken in corrected:
        return "no attenuation correction"
    if _is_derived(one) and not _is_derived(taken):
        return "derived"
    if one.frame != taken.frame:
        return "another frame of reference"
    return "fewer slices" if len(one.files) < len(taken.files) else "not of the others' time"


@lenient()
def choose_from(
    places: Mapping[str, Path], kinds: Mapping[str, str], *, case=None, chosen=frozenset()
) -> tuple[dict[str, Series], list[str]]:
    """The series of each image in a folder or archive, chosen as those of a study are.

    Args:
        places: name of an image -> where it is looked for; one place may hold a whole study.
        kinds: name -> kind.
        case: for messages.
        chosen: Series Instance UIDs that are taken wherever they are among the possible ones.

    Returns:
        name -> series, and notes: what was chosen where there were several, and why not the others.

    Raises:
        DataError: none of a kind, or several of which nothing says which one is meant.
    """
    found = {place: find_series(place)[0] for place in set(places.values())}
    group, unique = [], set()
    for name, place in places.items():
        kind = kinds[name].upper()
        matching = [s for s in found[place] if s.kind == kind] or [
            one_series(place, kind, case=case)
        ]
        unique |= {matching[0].uid} if len(matching) == 1 else set()
        group += [s for s in matching if not any(s is other for other in group)]
    several = {name for name in places if sum(s.kind == kinds[name].upper() for s in group) > 1}
    asked = Asked(images={name: kinds[name] for name in places}, chosen=frozenset(chosen) | unique)
    images, notes = choose_images(case, group, asked)
    corrected = _corrected(group)
    for name in sorted(several):
        left = [s for s in group if s.kind == images[name].kind and s is not images[name]]
        texts = [
            f"{s.describe()}: {_why_not(s, images[name], corrected, chosen)}"
            for s in left
            if not any(s is taken for taken in images.values())
        ]
        if texts:
            notes.append(f"took {images[name].describe()} as the {name}; left {'; '.join(texts)}")
    return images, notes


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


def choose_structures(case, group, asked):
    """(the RTSTRUCT or SEG, class -> names of its regions there, notes).

    On the CT where there are several; one that is approved goes before one that is not, and of two
    the newer one.

    Args:
        case: to name in errors.
        group: the series of a study.
        asked: see `Asked`.

    Raises:
        DataError: no such region, none at all, or several and none was asked for; several sets of
            which nothing says which one is meant.
    """
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

    def lacking(one, classes):
        return sum(not names for names in _present(one, classes, asked).values())

    for classes in _alternatives(asked):
        having = [s for s in sets if _suffices(_present(s, classes, asked), classes, asked)]
        if not having:
            continue
        criteria = [
            lambda s, classes=classes: lacking(s, classes),
            *(on_ct, lambda s: s.kind == "RTSTRUCT", approval, age),
        ]
        called = repr(next(name for names in classes.values() for name in names))
        best = _decide(f"structure sets with {called}", having, criteria, case, asked.chosen)
        notes = []
        same = [s for s in having if s is not best and on_ct(s) == on_ct(best)]
        if same:
            notes.append(
                f"{len(same)} other structure set(s) with {called} are older or not approved"
            )
        found = _present(best, classes, asked)
        for name, of_class in found.items():
            if not of_class:
                notes.append(f"no region {' or '.join(classes[name])}: it has no {name}")
        return best, found, notes
    names = sorted({name for one in sets for name in _called(one)})
    counted = [Counter(region_names(one.first)) for one in sets]
    twice = [name for counts in counted for name, n in counts.items() if n > 1]
    if not asked.regions and not asked.classes and sets:
        nearest = min(map(on_ct, sets))
        first = [one for one in sets if on_ct(one) == nearest]
        own = {name for one in first for name in region_names(one.first) if _has(one, name)}
        if len(own) == 1:
            return choose_structures(case, first, asked._replace(regions=tuple(own)))
    wanted = [name for classes in _alternatives(asked) for of in classes.values() for name in of]
    raise DataError(
        f"regions {', '.join(names)}" if names else "no RTSTRUCT or SEG",
        case=case,
        wanted=f"a region called {(' and ' if asked.unite else ' or ').join(wanted)}"
        if wanted
        else "one region",
        action=(
            "Name the tumour's region with --roi, or each class's with --classes"
            + (
                f"; {twice[0]!r} stands several times: name one by its number in brackets, or take "
                "all of them with --roi NAME --unite or --classes CLASS=NAME"
                if twice
                else ""
            )
        )
        if names
        else None,
    )


def _alternatives(asked) -> list[dict[str, tuple[str, ...]]]:
    """Class -> names of its regions, the best first."""
    if asked.classes:
        return [dict(asked.classes)]
    if asked.unite and asked.regions:
        return [{TUMOUR: asked.regions}]
    return [{TUMOUR: (name,)} for name in asked.regions]


def _present(one, classes, asked):
    """Class -> those of its regions that a structure set has, and that have a contour.

    Of several of one name all are meant where regions are united, and are given by their numbers.
    """
    found = {}
    for name, regions in classes.items():
        found[name] = ()
        for region in _whole_names(one, regions):
            drawn = [n for n in find_regions(one.first, region) if is_drawn(one.first, n)]
            if len(drawn) == 1:
                found[name] += (region,) if _has(one, region) else (str(drawn[0]),)
            elif asked.unite or asked.classes:
                found[name] += tuple(map(str, drawn))
    return found


def _whole_names(one, words):
    """Words that were parted at commas as the names that a structure set has, of which some have
    a comma.
    """
    names = {_plain(name): name for name in region_names(one.first)}
    found, start = [], 0
    while start < len(words):
        for stop in range(len(words), start, -1):
            joined = names.get(_plain(",".join(words[start:stop])))
            if joined is not None or stop == start + 1:
                found.append(words[start] if joined is None else joined)
                start = stop
                break
    return found


def _plain(name):
    return re.sub(r"\s*,\s*", ",", name.strip())


def _called(one):
    """The names of a structure set's regions, for a message."""
    for name in dict.fromkeys(region_names(one.first)):
        for number in (numbers := find_regions(one.first, name)):
            shown = f"{name} ({number})" if len(numbers) > 1 else name
            yield shown if is_drawn(one.first, number) else f"{shown} (empty)"


def _has(one, region):
    number = find_region(one.first, region)
    return number is not None and is_drawn(one.first, number)


def _suffices(found, classes, asked):
    """Says whether regions suffice: any of the classes', all of a united tumour's."""
    if asked.classes:
        return any(found.values())
    return all(len(found[name]) >= len(regions) for name, regions in classes.items())
