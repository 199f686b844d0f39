"""Which cases a network has learnt from or was chosen on, and what it was started from before it.

A case is known by its content and by its patient (`isanet_jax.cases.identity`), so that a copy,
another name or a second scan of a patient is no new case.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from isanet_jax.cases.cohort import Cohort, read_cohort
from isanet_jax.cases.folds import Split
from isanet_jax.cases.identity import identity_of, patient_digest
from isanet_jax.errors import ConfigError, DataError, some
from isanet_jax.settings import read_stored

ROLES = ("train", "selection", "test")
# Of what the network was started from, and of what that was started from.
BEFORE = ("before_train", "before_selection")


def identities(cohort: Cohort, parts: Split) -> dict[str, list[dict]]:
    """Role -> identity of its cases, for a run's description; nothing was before it."""
    own = {role: [identity_of(cohort.cases[c]) for c in getattr(parts, role)] for role in ROLES}
    return own | {role: [] for role in BEFORE}


def identities_of(description: Mapping) -> dict[str, list[dict]]:
    """Role -> identity of the cases of a network, also of one that an earlier version made."""
    if "identities" in description:
        return description["identities"]
    split = description["split"]
    if "counts" in description:  # a model's: digests of files
        own = {role: [{"file": digest} for digest in split[role]] for role in ROLES}
    else:
        try:
            known = read_cohort(read_stored(description["config"]).data.cases).cases
        except DataError:
            known = {}
        own = {
            role: [
                identity_of(known[case])
                if case in known
                else {"case": case, "patient": patient_digest(case)}
                for case in split[role]
            ]
            for role in ROLES
        }
    return own | {role: [] for role in BEFORE}


def carried_on(description: Mapping) -> dict[str, list[dict]]:
    """What a training that starts from a network has behind it: the roles of `BEFORE`."""
    known = identities_of(description)
    return {role: _unique(known[role.removeprefix("before_")] + known[role]) for role in BEFORE}


def _unique(found):
    return list({tuple(sorted(identity.items())): identity for identity in found}.values())


class Index:
    """The cases of a cohort by what they are known by.

    Args:
        cohort: the cases.
    """

    def __init__(self, cohort: Cohort):
        self._cases = defaultdict(set)
        for case, entry in cohort.cases.items():
            for item in (("case", case), *identity_of(entry).items()):
                self._cases[item].add(case)

    def find(self, found: list[dict]) -> set[str]:
        """The cases that have one of these identities: IDs."""
        items = [item for identity in found for item in identity.items()]
        return set().union(*(self._cases.get(item, ()) for item in items))


def in_cohort(description: Mapping, cohort: Cohort) -> dict:
    """A network's description with its cases as a cohort calls them.

    `split` has those that the cohort has, sorted, of the roles of `BEFORE`, too; `counts` all that
    there are; `lacking`, of a run, the test cases that the cohort does not have.
    """
    index, known = Index(cohort), identities_of(description)
    split = {role: sorted(index.find(found)) for role, found in known.items()}
    lacking = []
    if "counts" not in description:  # of a model, the IDs are not known
        names = zip(description["split"]["test"], known["test"], strict=True)
        lacking = [case for case, identity in names if not index.find([identity])]
    counts = {role: len(found) for role, found in known.items()}
    return {**description, "split": split, "counts": counts, "lacking": lacking}


def seen(description: Mapping) -> set[str]:
    """The cases of a cohort that a network must not be scored on.

    Those that it, or what it was started from, was trained or chosen on. With selection `paper` it
    was chosen on its own test fold, which its figures say; and a training that went on although its
    start had seen its test cases (`init_seen`) has figures that say that.

    Args:
        description: of `in_cohort`.
    """
    split = {role: set(cases) for role, cases in description["split"].items()}
    known_to_be = split["test"] if description.get("overlap") else set()
    before = split["before_train"] - known_to_be
    chosen_on = split["selection"] | (split["before_selection"] - known_to_be)
    if split["test"] & split["selection"]:
        chosen_on -= split["test"]
    return split["train"] | before | chosen_on


def unseen_cases(cohort: Cohort, descriptions: list[Mapping]) -> list[str]:
    """The cases of a cohort on which networks may be scored: none of them has learnt from these.

    For one network on its own cohort, its test fold. A case that a network does not know is of
    another cohort, and unseen.

    Args:
        cohort: the prepared cases.
        descriptions: of each network, of `in_cohort`.

    Raises:
        DataError: test cases that the cohort lacks.
        ConfigError: some network has seen every case.
    """
    unseen = set(cohort.cases)
    for description in descriptions:
        lacking = description["lacking"]
        if lacking and any(description["split"].values()):
            raise DataError(
                f"lacks the test cases {some(lacking)}",
                file=cohort.folder,
                action="Name the folder that the run was trained on with --cases; cases of another "
                "cohort need patients' IDs of their own",
            )
        unseen -= seen(description)
    if not unseen:
        raise ConfigError(
            f"each of the {len(cohort.cases)} cases in {cohort.folder} was trained or selected on "
            "by one of the networks, or by what it was started from. Folds of one cohort can only "
            "be scored together on other cases: name them with --cases"
        )
    return sorted(unseen)


def said_of(cohort: Cohort, descriptions: list[Mapping], left_out) -> str:
    """What is to be said of cases that are not scored; "" where there are none.

    Args:
        cohort: the prepared cases.
        descriptions: of each network, of `in_cohort`.
        left_out: their IDs.
    """
    words = {
        "train": "trained on",
        "selection": "chosen on",
        "before_train": "trained on by what a network was started from",
        "before_selection": "chosen on by what a network was started from",
    }
    left_out, parts = set(left_out), []
    for role, text in words.items():
        of_role = {case for one in descriptions for case in one["split"][role]} & left_out
        if of_role:
            parts.append(f"{len(of_role)} {text} ({some(sorted(of_role))})")
    if not parts:
        return ""
    return (
        f"{len(left_out)} of the {len(cohort.cases)} cases in {cohort.folder} are left out: "
        f"{'; '.join(parts)}. They are known by their images or by their patient's ID: where "
        "different patients share an ID, give one of them another, and prepare again"
    )


def overlap_of_start(
    config, cohort: Cohort, parts: Split, before: Mapping, fold_of: Mapping[str, int]
) -> dict[str, list[str]]:
    """Cases of a training's test or selection fold that its start has seen; {} where none.

    To choose a checkpoint on cases that the start was chosen on, too, takes nothing from a test
    fold: with selection `paper`, that is what it says.

    Args:
        config: the training's settings.
        cohort: its cases.
        parts: their roles.
        before: of `carried_on`.
        fold_of: case -> fold, as the run's `fold_by` counts them.

    Raises:
        ConfigError: there are some, and `init_seen` is not set.
    """
    index = Index(cohort)
    trained, chosen = (index.find(before[role]) for role in BEFORE)
    if set(parts.test) & set(parts.selection):
        chosen = set()
    bad = {
        "test": sorted((trained | chosen) & set(parts.test)),
        "selection": sorted(trained & set(parts.selection)),
    }
    overlap = {role: cases for role, cases in bad.items() if cases}
    if not overlap or config.init_seen:
        return overlap
    shown = "; ".join(f"{len(c)} of the {role} fold ({some(c)})" for role, c in overlap.items())
    free = sorted(
        {str(f) for f in fold_of.values()}
        - {str(f) for case, f in fold_of.items() if case in trained | chosen}
    )
    other = (
        f"test on a fold that it has not seen (--config.fold={', '.join(free)}), " if free else ""
    )
    raise ConfigError(
        f"init is {config.init}, which has learnt from or was chosen on {shown}: figures on them "
        f"would be of what was learnt. Start from another network, {other}or go on with "
        "--config.init_seen=True: every table then says so"
    )


def cases_of(cohort: Cohort, parts: Split) -> dict[str, dict]:
    """Case -> digests of it, by which a run that is resumed knows that it is still the same."""
    return {
        case: {name: cohort.cases[case].get(name) for name in ("content", "digest")}
        for role in ROLES
        for case in getattr(parts, role)
    }


def check_same(stored: Mapping, now: Mapping, workdir: Path) -> None:
    """Refuses to go on with a training whose cases are not what they were.

    Of test cases the image counts; a corrected label there changes nothing that was learnt.

    Args:
        stored: a checkpoint's description; one of an earlier version has no digests of cases.
        now: the run's.
        workdir: for the message.

    Raises:
        ConfigError: names what changed, and what to do.
    """
    lines = []
    for role in ROLES if "split" in now else ():
        then, today = (set(one["split"][role]) for one in (stored, now))
        if gone := sorted(then - today):
            lines.append(f"{role}: {some(gone)} then, and not now")
        if new := sorted(today - then):
            lines.append(f"{role}: {some(new)} now, and not then")
    digests = stored.get("cases", {}), now.get("cases", {})
    for names, words, roles in (
        ("content", "another image", ROLES),
        ("digest", "other voxels or another label", ("train", "selection")),
    ):
        cases = sorted({case for role in roles for case in now.get("split", {}).get(role, ())})
        pairs = [(case, *(one.get(case, {}).get(names) for one in digests)) for case in cases]
        if changed := [case for case, a, b in pairs if a and b and a != b]:
            lines.append(f"{some(changed)}: {words} than then")
            break
    if lines:
        raise ConfigError(
            f"{workdir} was trained on other cases than there are now:\n  "
            + "\n  ".join(lines)
            + f"\nTrain in a new --workdir, from nothing or from this run (--config.init={workdir})"
            ", or put the cases back as they were"
        )
