"""Whether a run's settings fit each other, and the cases that it trains on."""

from isanet_jax.arguments import command
from isanet_jax.cases.cohort import Cohort
from isanet_jax.cases.grid import as_three
from isanet_jax.distributed.placement import splits
from isanet_jax.errors import ConfigError
from isanet_jax.losses.segmentation import LOSSES, find_loss
from isanet_jax.network import systems
from isanet_jax.network.systems import SYSTEMS, find_system
from isanet_jax.settings import Config, changed, read
from isanet_jax.settings.declare import thawed, value_of
from isanet_jax.settings.read import unread


def check_config(values) -> Config:
    """A run's settings, checked before any data is read.

    Args:
        values: a Config, a ConfigDict or nested dicts.

    Raises:
        ConfigError: names the setting, its value and what would work.
    """
    if not isinstance(values, Config) and "methods" in values:
        raise ConfigError(
            "this config is of a comparison, and not of a run; it is run by: "
            f"{command('compare')} --config FILE"
        )
    config = read(values)
    if config.init_seen and not config.init:
        raise ConfigError("init_seen is True, and nothing reads it without init; use False")
    rates = config.optimizer
    if rates.schedule != "poly" and rates.floor_learning_rate > rates.peak_learning_rate:
        raise ConfigError(
            f"optimizer.floor_learning_rate is {rates.floor_learning_rate:g}, above the "
            f"peak_learning_rate, {rates.peak_learning_rate:g}"
        )
    if rates.schedule == "cosine" and rates.warmup_epochs >= config.train.epochs:
        raise ConfigError(
            f"optimizer.warmup_epochs is {rates.warmup_epochs} and train.epochs is "
            f"{config.train.epochs}: nothing is left to go down in; use fewer to warm up"
        )
    find_loss(config.loss.name)
    _check_patch(config.data, config.train)
    find_system(config.model.name)
    systems.of_config(config)
    for name, (default, why) in unread_settings(config).items():
        raise ConfigError(
            f"{name} is {thawed(value_of(config, name))!r}, and nothing reads it with {why}; use "
            f"{thawed(default)!r}"
        )
    _check_split(config)
    if config.mesh.space > 1 and config.data.guidance != "none":
        raise ConfigError(
            f"data.guidance is {config.data.guidance!r} and mesh.space is {config.mesh.space}: "
            "clicks are drawn in whole volumes; use mesh.space=1"
        )
    if config.train.batch % config.mesh.data:
        raise ConfigError(
            f"train.batch is {config.train.batch} and mesh.data is {config.mesh.data}: the batch "
            "must be a multiple of the devices it is split over"
        )
    return config


def resolved_config(values) -> Config:
    """The settings, checked, with the width and the levels that the network will have.

    Raises:
        ConfigError: see `check_config`.
    """
    config = check_config(values)
    network = systems.of_config(config)
    return changed(config, {"model.width": network.width, "model.levels": network.levels})


def unread_settings(config: Config) -> dict[str, tuple[object, str]]:
    """Settings that differ from their default and that nothing which was chosen reads.

    Returns:
        `section.setting` -> (its default, what was chosen that does not read it).
    """
    reads = {
        "model.name": {name: system.reads for name, system in SYSTEMS.items()},
        "loss.name": {name: loss.reads for name, loss in LOSSES.items()},
    }
    return unread(config, reads)


def _check_patch(data, train):
    """Refuses patches that the cases do not have."""
    patch, size = as_three(data.patch), as_three(data.size)
    if any(patch) and not all(patch):
        raise ConfigError(f"data.patch is {thawed(data.patch)}; give 0, or voxels along each axis")
    if not any(patch) and train.validate_on == "patches":
        raise ConfigError(
            "train.validate_on is 'patches', and data.patch is 0: whole volumes are validated on "
            "cases"
        )
    if data.is_whole:
        if not any(patch):
            raise ConfigError(
                "data.fit is 'whole', and data.patch is 0: cases of any shape are trained on in "
                "patches, as in --config.data.patch=96"
            )
    elif any(p > n for p, n in zip(patch, size, strict=True)):
        raise ConfigError(
            f"data.patch is {thawed(data.patch)}; it must be 0 (whole volumes) or at most "
            f"data.size, {thawed(data.size)}"
        )


def _check_split(config):
    """Refuses volumes split over devices where the network cannot be."""
    space, depth = config.mesh.space, as_three(config.data.size)[0]
    if space <= 1:
        return
    if not SYSTEMS[config.model.name].can_split or config.data.patch_shape:
        splitting = [name for name, system in SYSTEMS.items() if system.can_split]
        raise ConfigError(
            f"mesh.space is {space} with model.name {config.model.name!r} and data.patch "
            f"{thawed(config.data.patch)}; what can be split are whole volumes in "
            f"{' and '.join(splitting)}. Use mesh.data"
        )
    if config.model.convolution == "folded":
        raise ConfigError("model.convolution is 'folded'; a split volume needs 'native' or 'auto'")
    if not splits(depth, space):
        raise ConfigError(
            f"data.size is {depth} and mesh.space {space}: the depth must be a multiple of it, "
            "with two planes or more on each device"
        )


def check_cohort(config: Config, cohort: Cohort) -> None:
    """Refuses cases that were prepared otherwise than the config says.

    Raises:
        ConfigError: the difference, and the overrides that would accept the cases.
    """
    data = config.data
    compared = ["fit", *(["size"] * (not data.is_whole))]
    compared += ["spacing_mm"] * (data.fit != "resize")
    wanted_of = {name: thawed(getattr(data, name)) for name in compared}
    differing = [n for n in compared if cohort.settings[n] != wanted_of[n]]
    if differing:
        stored = ", ".join(f"{n} {cohort.settings[n]}" for n in differing)
        wanted = ", ".join(f"{n} {wanted_of[n]}" for n in differing)
        accept = " ".join(_override(n, cohort.settings[n]) for n in differing)
        raise ConfigError(
            f"the cases in {cohort.folder} were prepared with {stored}; the config says {wanted}. "
            f"Prepare them again, or train on them as they are with {accept}"
        )
    for name, wanted in (("images", data.kinds), ("classes", data.classes)):
        stored = cohort.settings[name]
        lacking = [n for n in wanted if n not in stored]
        if lacking or (name == "images" and any(stored[n] != kind for n, kind in wanted.items())):
            raise ConfigError(
                f"the cases in {cohort.folder} have the {name} {', '.join(stored)}; the config "
                f"says {', '.join(wanted)}. Prepare them again with --{name}, or train on them as "
                f"they are with {_override(name, tuple(stored))}"
            )


def _override(name, value):
    """The flag that sets a setting of `data`, as a shell takes it."""
    text = str(value).replace(" ", "")
    return f"--config.data.{name}=" + (f'"{text}"' if isinstance(value, (list, tuple)) else text)
