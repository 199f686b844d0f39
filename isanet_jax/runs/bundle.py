"""A model as one file: weights, settings, rules and a card, without anything that is run.

A zip that stores and does not compress: `model.json` (settings of each network, rules, digests),
`weights0.safetensors` and so on, and `CARD.md`, for people. The zip's comment is the SHA-256 of all
bytes before it, so that a byte that was changed is noticed.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

import isanet_jax
from isanet_jax.errors import CheckpointError, ConfigError
from isanet_jax.files import BUNDLE_SUFFIX, check_new, read_regular, replace_when_done
from isanet_jax.runs.card import model_card
from isanet_jax.runs.description import check_model
from isanet_jax.runs.seen import ROLES, identities_of
from isanet_jax.settings import changed, read_stored, to_dict

FORMAT = 1
_MODEL, _CARD = "model.json", "CARD.md"
_DIGEST = 64  # characters of the comment
_END = 22  # bytes of a zip's last record, before the comment; the last two are its length
# What a description keeps of a run. The rest (IDs of cases, folders, the iterator's place) stays.
_KEPT = ("config", "preparation", "seen", "ct_window", "ct_windows", "system_version")
_LARGEST_JSON = 16 * 2**20
_LARGEST = 2**33
_DAMAGE = (ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile)


class Bundle(NamedTuple):
    """What a file holds.

    Attributes:
        networks: (description, name -> array) of each; descriptions are as of
            `isanet_jax.prediction.predictor.Predictor`, with digests in place of cases' IDs.
        rules: class -> `isanet_jax.prediction.rules.Rules` as JSON, {} where there are none.
        card: Markdown.
    """

    networks: list[tuple[dict, dict[str, np.ndarray]]]
    rules: dict
    card: str


def write_bundle(
    networks,
    output,
    *,
    rules: Mapping | None = None,
    about: Mapping[str, str] | None = None,
    metrics=(),
    overwrite=False,
) -> Path:
    """Writes networks as one file.

    Args:
        networks: (description, parameters) of each, as a run's checkpoint has them.
        output: file to write, `.isanet`.
        rules: class -> its rule as JSON (`isanet_jax.prediction.rules.write_form`); None: one half.
        about: what the card says besides: `intended_use`, `limits`, `licence`, `citation`.
        metrics: contents of the runs' metrics.json, for the card.
        overwrite: replace an existing file.

    Raises:
        ConfigError: a name that does not end in .isanet.
        DataError: a file that is there.
    """
    output = Path(output)
    if output.suffix != BUNDLE_SUFFIX:
        raise ConfigError(f"{output} is to be a model; call it NAME{BUNDLE_SUFFIX}")
    check_new(output, overwrite=overwrite)
    members, described = {}, []
    for number, (description, params) in enumerate(networks):
        name = f"weights{number}.safetensors"
        members[name] = safetensors.save(dict(named_arrays(jax.device_get(params))))
        digest = hashlib.sha256(members[name]).hexdigest()
        described.append(_described(description) | {"weights": name, "sha256": digest})
    model = {
        "format": FORMAT,
        "program": f"isanet_jax {isanet_jax.__version__}",
        "networks": described,
        "rules": dict(rules or {}),
    }
    card = model_card(described, rules or {}, metrics, about or {})
    members = {_MODEL: json.dumps(model, indent=1).encode(), _CARD: card.encode(), **members}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    content = buffer.getvalue()
    comment = hashlib.sha256(content).hexdigest().encode()
    with replace_when_done(output) as partial:
        partial.write_bytes(content[:-2] + len(comment).to_bytes(2, "little") + comment)
    return output


def _described(description):
    """A run's description without what names cases or folders."""
    if "counts" in description:  # of a network that comes from a model
        return {k: v for k, v in description.items() if k not in ("weights", "sha256", "rules")}
    nameless = {"data.cases": "", "init": "", "init_seen": False}  # no paths of a machine
    config = to_dict(changed(read_stored(description["config"]), nameless))
    progress = {k: description["progress"][k] for k in ("best_dsc", "best_epoch")}
    kept = {name: description[name] for name in _KEPT if name in description}
    known = identities_of(description)
    overlap = {role: len(cases) for role, cases in description.get("overlap", {}).items()}
    return kept | {
        "config": config,
        "progress": progress,
        # By which versions before 0.2.0 know cases.
        "split": {role: [one["file"] for one in known[role] if "file" in one] for role in ROLES},
        "identities": {
            role: [{k: v for k, v in one.items() if k != "case"} for one in of_role]
            for role, of_role in known.items()
        },
        "counts": {role: len(cases) for role, cases in known.items()},
        **({"overlap": overlap} if overlap else {}),
    }


def read_bundle(path) -> Bundle:
    """Reads a model; nothing in it is run, and no more is read than the file holds.

    Raises:
        CheckpointError: no such file, one that is none, of another format, or changed.
    """
    path = Path(path)
    try:
        content = read_regular(path, _LARGEST)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    model = None
    try:
        _check_whole(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, len(content))
        model = json.loads(members[_MODEL], parse_constant=_refuse_constant)
        check_model(model)
        networks = []
        for number, description in enumerate(model["networks"]):
            stored = members[description["weights"]]
            if hashlib.sha256(stored).hexdigest() != description["sha256"]:
                raise ValueError(f"the weights of network {number} were changed")
            networks.append((description, safetensors.load(stored)))
        return Bundle(networks, dict(model["rules"]), members[_CARD].decode())
    except (*_DAMAGE, SafetensorError) as error:
        if newer := _newer(model):
            raise CheckpointError(
                f"{path} is of a newer version ({newer}) than this one, {isanet_jax.__version__}: "
                "update isanet_jax to use it"
            ) from error
        raise CheckpointError(
            f"{path} is not a model, or is a damaged one ({' '.join(str(error).split())[:200]}); "
            "copy it again, or make it again with isanet bundle"
        ) from error


def _check_whole(content):
    """Raises ValueError where the bytes are not those that were written."""
    end, comment = content[:-_DIGEST], content[-_DIGEST:]
    if len(content) < _END + _DIGEST or end[-2:] != _DIGEST.to_bytes(2, "little"):
        raise ValueError("its end is not that of a model")
    if hashlib.sha256(end[:-2] + b"\0\0").hexdigest().encode() != comment:
        raise ValueError("its content is not that which was written")


def _members(archive, size):
    """Name -> bytes of all members, whose sizes are looked at first."""
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its parts are larger than the file")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"{entry.filename!r} is compressed")
        if entry.filename == _MODEL and entry.file_size > _LARGEST_JSON:
            raise ValueError(f"{entry.filename!r} has {entry.file_size} bytes")
    return {entry.filename: archive.read(entry) for entry in entries}


def _refuse_constant(name):
    raise ValueError(f"it has the number {name}")


def _newer(model) -> str:
    """The newer version that a model says it is of; "" where it says none."""
    if not isinstance(model, dict):
        return ""
    if isinstance(model.get("format"), int) and model["format"] > FORMAT:
        return f"format {model['format']}"
    version = re.fullmatch(r"isanet_jax (\d{1,5})\.(\d{1,5})\.(\d{1,5})", str(model.get("program")))
    ours = re.match(r"(\d+)\.(\d+)\.(\d+)", isanet_jax.__version__)
    is_newer = version and [*map(int, version.groups())] > [*map(int, ours.groups())]
    return version[0] if is_newer else ""


def as_tree(arrays: Mapping[str, np.ndarray], abstract, what) -> dict:
    """Arrays by name as the nested dict of a network's parameters.

    Args:
        arrays: name -> array, of a `Bundle`.
        abstract: the parameters' shapes and types, of the same structure.
        what: file, for the message.

    Raises:
        CheckpointError: arrays of another network.
    """
    wanted = dict(named_arrays(abstract))

    def form(array):
        return None if array is None else (tuple(array.shape), np.dtype(array.dtype))

    different = sorted(
        name
        for name in wanted.keys() | arrays.keys()
        if form(arrays.get(name)) != form(wanted.get(name))
    )
    if different:
        name = different[0]
        raise CheckpointError(
            f"{what}: {len(different)} arrays are not those of the network that its settings "
            f"describe, such as {name}"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CheckpointError(f"{what}: its weights are not finite")
    paths, structure = jax.tree_util.tree_flatten_with_path(abstract)
    leaves = [arrays[_name(path)] for path, _ in paths]
    return jax.tree_util.tree_unflatten(structure, leaves)


def named_arrays(tree) -> list[tuple[str, object]]:
    """(name, array) of all, as `decoders/0/levels/1/kernel`."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")
