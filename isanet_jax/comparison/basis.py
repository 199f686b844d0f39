"""What a cell's figures rest on: cases, labels, masks and version, so that none is stale."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import isanet_jax
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.folds import Split
from isanet_jax.errors import damaged, some
from isanet_jax.files import is_bundle, write_json
from isanet_jax.runs.damage import SAVED

BASIS = "basis.json"
SCORE_AGAIN = (
    "Delete it and run the same command again: the cell is scored anew, and what was trained is "
    "kept"
)
_STALE = "stale"  # folders in a cell's, of what was made from other cases


def basis_of(
    cohort: Cohort, parts: Split, *, is_trained: bool, inits: Sequence[str] = (), masks_of=None
) -> dict:
    """What figures would rest on now.

    Args:
        cohort: the cases.
        parts: their roles.
        is_trained: whether a network is trained for them.
        inits: what its trainings start from, where they do.
        masks_of: folder of given masks, ID.nii.gz.

    Returns:
        `version` of this program; `trained_on`, case -> digest, and `started_from`, path -> digest,
        of a network; `scored_on`, case -> digest; `masks`, case -> digest of the file.
    """
    basis = {
        "version": isanet_jax.__version__,
        "scored_on": {case: _digest(cohort.cases[case]) for case in parts.test},
    }
    if is_trained:
        learnt = sorted({*parts.train, *parts.selection})
        basis["trained_on"] = {case: _digest(cohort.cases[case]) for case in learnt}
        basis["started_from"] = {path: _digest_of_start(path) for path in inits if path}
    if masks_of is not None:
        paths = {case: Path(masks_of) / f"{case}.nii.gz" for case in parts.test}
        basis["masks"] = {case: _digest_of_file(path) for case, path in paths.items()}
    return basis


def _digest(entry):
    """A case's, or where it was prepared before there was one, that of its files."""
    stored = json.dumps(entry["sources"], sort_keys=True).encode()
    return entry.get("digest") or hashlib.sha256(stored).hexdigest()


def _digest_of_file(path):
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_start(path):
    path = Path(path)
    return _digest_of_file(path if is_bundle(path) else path / "checkpoints" / SAVED)


def read_basis(folder) -> dict:
    """What a cell's folder was made from; {} where that is not known.

    Raises:
        DataError: its record is damaged.
    """
    path = Path(folder) / BASIS
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("trained_on", "started_from", "scored_on", "masks"):
            dict(content.get(name, {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise damaged(path, error, SCORE_AGAIN) from error
    return content


def begin(folder, basis: dict) -> None:
    """Records what is trained on, before it is; of what is there, figures are not known to be."""
    write_json(Path(folder) / BASIS, {k: v for k, v in basis.items() if k in _OF_TRAINING})


def finish(folder, basis: dict) -> None:
    """Records what the figures rest on, once they are written."""
    write_json(Path(folder) / BASIS, basis)


_OF_TRAINING = ("trained_on", "started_from")


def must_train_again(folder, basis: dict) -> bool:
    """Whether what is in a cell's folder was trained on other cases than there are now."""
    stored = read_basis(folder)
    return any(name in stored and stored[name] != basis.get(name) for name in _OF_TRAINING)


def changes(folder, basis: dict) -> str:
    """What is other now than when a cell's figures were made, in words; "" of nothing."""
    stored, words = read_basis(folder), []
    for name, what in (
        ("trained_on", "training cases"),
        ("started_from", "the start of the training"),
        ("scored_on", "test cases or their labels"),
        ("masks", "masks"),
    ):
        then, now = stored.get(name, {}), basis.get(name, {})
        differing = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k))
        if differing:
            words.append(f"{what} ({some(differing)})")
    if stored.get("version") != basis["version"]:
        words.append(f"the version ({stored.get('version', 'not known')})")
    return ", ".join(words)


def set_aside(folder) -> Path:
    """Moves what a cell's folder holds, but its lock, into a folder in it. Nothing is deleted."""
    folder = Path(folder)
    number = 1 + max((int(p.name.removeprefix(_STALE)) for p in folder.glob(f"{_STALE}[0-9]*")),
                     default=0)  # fmt: skip
    aside = folder / f"{_STALE}{number}"
    aside.mkdir()
    for path in sorted(folder.iterdir()):
        if path.name != "lock" and not path.name.startswith(_STALE):
            path.rename(aside / path.name)
    return aside
