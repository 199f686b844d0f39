"""The cells of a comparison: methods by folds by seeds."""

import copy
import dataclasses
import functools
import json
import re
from pathlib import Path

from isanet_jax.comparison.basis import SCORE_AGAIN, basis_of, changes
from isanet_jax.comparison.cell import BURDEN, SCORES, SCORES_BY_CLASS, TRAINING
from isanet_jax.errors import ConfigError, IsaNetError, damaged
from isanet_jax.network.systems import SYSTEMS, find_system
from isanet_jax.runs.log import read_log
from isanet_jax.settings import Config, changed, read, to_dict
from isanet_jax.training.check import check_config, unread_settings
from isanet_jax.training.setup import load_cohort, split_cohort

THRESHOLDS = "thresholds"  # the pseudo-method of all fixed thresholds


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A method on one fold with one seed; `folder` is its ordinary run folder.

    `masks_of` is the folder of the masks of a method that is not trained here. `members` are
    the configs of an ensemble's networks, of which each has a seed and a folder of its own; with
    `snapshots` each starts where the one before it ended.
    """

    method: str
    fold: int
    seed: int
    config: Config
    folder: Path
    masks_of: str | None = None
    members: tuple[Config, ...] = ()
    snapshots: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} fold {self.fold} seed {self.seed}"

    @property
    def record(self) -> dict:
        """What its folder is claimed with: a cell of other networks is another cell."""
        members = [to_dict(one) for one in self.members]
        several = {"members": members, "snapshots": self.snapshots}
        return to_dict(self.config) | (several if members else {})

    @property
    def is_trained(self) -> bool:
        """Whether there is a network to train: not for thresholds and given masks."""
        return self.method != THRESHOLDS and self.masks_of is None

    @functools.cached_property
    def basis(self) -> dict:
        """What its figures would rest on now, see `isanet_jax.comparison.basis`.

        Raises:
            ConfigError, DataError: its cases are not there.
        """
        cohort = load_cohort(self.config)
        return basis_of(
            cohort,
            split_cohort(self.config, cohort),
            is_trained=self.is_trained,
            inits=[one.init for one in self.members or (self.config,)],
            masks_of=self.masks_of,
        )

    @property
    def is_done(self) -> bool:
        """Whether it has figures, of the cases, labels and masks that are there now."""
        try:
            return (self.folder / SCORES).exists() and not changes(self.folder, self.basis)
        except IsaNetError:  # its cases are gone: nobody knows what its figures are of
            return False

    @property
    def logs(self) -> list[list[dict]]:
        """The records of its trainings, see `isanet_jax.runs.log`; none of what is given."""
        members = [self.folder / f"member{number}" for number in range(len(self.members))]
        folders = members or [self.folder]
        return [lines for run in folders if (lines := read_log(run / "metrics.jsonl"))]

    @property
    def training(self) -> dict | None:
        """What its training took, see `isanet_jax.comparison.cell.run_cell`; None: not known."""
        path = self.folder / TRAINING
        return _read(path) if path.exists() else None

    @property
    def burdens(self) -> dict[str, dict]:
        """Case -> its tumour burden and the reference's; {} where it was not measured."""
        path = self.folder / BURDEN
        return _read(path) if path.exists() else {}

    def scores(self, of_class: str | None = None) -> dict[str, dict[str, dict[str, float]]]:
        """Method (`network`, or a threshold's name) -> case ID -> metrics.

        Args:
            of_class: a class of several; None: the only one, or their mean.
        """
        path = self.folder / (SCORES_BY_CLASS if of_class else SCORES)
        content = _read(path)
        try:
            content = content[of_class] if of_class else content
            return {
                method: {case: {k: float(v) for k, v in m.items()} for case, m in cases.items()}
                for method, cases in content.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, error, SCORE_AGAIN) from error


def _read(path):
    """A finished cell's JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error, SCORE_AGAIN) from error


def with_systems(comparison: dict) -> dict:
    """The comparison, with a method for each system that its order names without defining it.

    So a system that has just been written is compared by its name alone.
    """
    named = {
        name: {"label": name, "settings": {"model": {"name": name}}, "published": {}}
        for name in comparison["order"]
        if name in SYSTEMS
    }
    return comparison | {"methods": named | comparison["methods"]}


def with_external(comparison: dict) -> dict:
    """The comparison, with a method for each `NAME=FOLDER` of its `external`.

    Raises:
        ConfigError: what is no such text, a name that is taken, a folder that is not there.
    """
    methods, order = dict(comparison["methods"]), list(comparison["order"])
    for text in comparison.get("external", ()):
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ConfigError(f"external has {text!r}; give NAME=FOLDER")
        if name in methods or name == THRESHOLDS:
            raise ConfigError(f"external has {name!r}, and there is a method of that name")
        if not Path(folder).is_dir():
            raise ConfigError(f"external has {text!r}: there is no folder {folder}")
        methods[name] = {"label": name, "settings": {}, "published": {}, "masks": folder}
        order.append(name)
    return comparison | {"methods": methods, "order": order}


def make_cells(comparison: dict, workdir: Path) -> list[Cell]:
    """The grid seed x fold x method, in the order in which it is run.

    Args:
        comparison: see configs/compare/comparison.py.
        workdir: of the comparison.

    Raises:
        ConfigError: a method's settings that cannot work, named with the method.
    """
    unknown = set(comparison["order"]) - comparison["methods"].keys()
    if unknown or not comparison["order"]:
        raise ConfigError(
            f"order is {', '.join(comparison['order']) or 'empty'}; choose from the methods "
            f"{', '.join(comparison['methods'])}, and of the systems {', '.join(SYSTEMS)}"
        )
    methods = {name: comparison["methods"][name]["settings"] for name in comparison["order"]}
    if comparison["thresholds"]:
        methods[THRESHOLDS] = {}
    bad = [name for name in methods if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)]
    if bad:
        raise ConfigError(f"a method is named {bad[0]!r}; use letters, digits, _ and - only")
    if comparison["reference"] not in comparison["order"]:
        raise ConfigError(
            f"reference is {comparison['reference']!r}; choose one of the methods that are run, "
            f"{', '.join(comparison['order'])}"
        )
    cells = []
    for seed in comparison["seeds"]:
        for fold in comparison["folds"]:
            for method, settings in methods.items():
                given = comparison["methods"].get(method, {})  # thresholds have none
                masks, members = given.get("masks"), given.get("members", ())
                if (method == THRESHOLDS or masks) and seed != comparison["seeds"][0]:
                    continue  # nothing random in them, or nothing that is known of it
                merged = _merged(comparison["base"], settings, f"methods.{method}.settings")
                merged |= {"fold": fold, "seed": seed}
                place = f"methods.{method}.members"
                if not isinstance(members, list | tuple):
                    raise ConfigError(
                        f"{place} is {members!r}; give for each network what differs from "
                        f"methods.{method}.settings, as ({{}}, {{}}) for two that do not"
                    )
                try:
                    config = _without_unread(merged, settings)
                    members = tuple(
                        check_config(_merged(to_dict(config), changes, place))
                        for changes in members
                    )
                    config = config if members else check_config(config)
                except ConfigError as error:
                    raise ConfigError(f"method {method}: {of_comparison(error)}") from error
                folder = Path(workdir) / method / f"fold{fold}-seed{seed}"
                masks_of = str(Path(masks).absolute() / f"fold{fold}") if masks else None
                snapshots = given.get("snapshots", False)
                cells.append(Cell(method, fold, seed, config, folder, masks_of, members, snapshots))
    return cells


def _without_unread(merged, settings) -> Config:
    """The settings; what the base changes and this method does not read has its default.

    What the method itself says and does not read stays, and is refused.
    """
    config, of_base = read(merged), {}
    find_system(config.model.name)
    for name, (default, _) in unread_settings(config).items():
        section, key = name.split(".")
        if key not in settings.get(section, {}):
            of_base[name] = default
    return changed(config, of_base)


def _merged(base, settings, place):
    """`base` with the values of `settings`, section by section."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{place} is {settings!r}; give settings by their names")
    merged = copy.deepcopy(base)
    for name, value in settings.items():
        if name not in base:
            raise ConfigError(f"{place}.{name} is no setting; there are {', '.join(base)}")
        is_section = isinstance(base[name], dict)
        merged[name] = _merged(base[name], value, f"{place}.{name}") if is_section else value
    return merged


def check_data(cells: list[Cell]) -> dict[str, IsaNetError]:
    """Looks at every cell's cases before any time is spent: cell's name -> what is wrong."""

    @functools.cache
    def problem(config):
        try:
            split_cohort(config, load_cohort(config))
        except IsaNetError as error:
            return error
        return None

    # Without what the cases do not depend on: many cells have the same.
    needs = ("data", "fold", "fold_by", "selection", "inner_fold")
    problems = {c.name: problem(Config(**{n: getattr(c.config, n) for n in needs})) for c in cells}
    return {name: error for name, error in problems.items() if error}


def of_comparison(error: Exception | str) -> str:
    """A run's error as one of a comparison, where a run's settings are called otherwise."""
    text = re.sub(r"--config\.(fold|seed)=\S+", r"--config.\1s=...", str(error))
    return re.sub(r"--config\.(?!base\.|folds|seeds|order)", "--config.base.", text)
