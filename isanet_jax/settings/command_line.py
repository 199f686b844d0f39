"""A config from the command line: `--config NAME [--workdir DIR] [--config.NAME=VALUE ...]`."""

import re
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from isanet_jax import configs
from isanet_jax.arguments import command, config_name
from isanet_jax.errors import ConfigError
from isanet_jax.settings.read import to_dict


def parse_command_line(argv) -> tuple[dict, Path]:
    """Reads `--config FILE [--workdir DIR] [--config.name=value ...]`.

    Returns:
        The config as a plain dict, and the run's folder (`runs/` and the config's name and
        variant where none is given).

    Raises:
        ConfigError: an unknown flag or setting, a value of the wrong type, no config.
    """
    values = flags.FlagValues()
    argv = [argv[0], *with_packaged_config(argv[1:])]
    _check_config_file(argv)
    config_flags.DEFINE_config_file(
        "config", None, "configuration file", lock_config=True, flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    try:
        rest = values(argv)
        config = values.config and to_dict(values.config)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(_reason(str(error))) from error
    if len(rest) > 1:
        raise ConfigError(
            f"unexpected arguments {' '.join(rest[1:])}; settings are --config.name=value"
        )
    if not isinstance(config, dict):
        raise ConfigError(
            f"give --config FILE, as in: {command('train')} --config {config_name('hecktor')} "
            "--workdir runs/h0"
        )
    path, _, variant = values["config"].config_filename.partition(":")
    name = "_".join(filter(None, [Path(path).stem, *variant.split(",")]))
    return config, Path(values.workdir or f"runs/{name}")


def _check_config_file(argv):
    """Raises ConfigError where `--config` names no file: before what loads it says so at length."""
    words = iter(argv[1:])
    for word in words:
        value = next(words, "") if word == "--config" else None
        value = word.removeprefix("--config=") if word.startswith("--config=") else value
        if value is not None and not Path(value.partition(":")[0]).is_file():
            names = sorted(
                path.stem
                for folder in configs.__path__
                for path in Path(folder).glob("*.py")
                if path.stem != "__init__"
            )
            raise ConfigError(
                f"--config is {value!r}, and there is no such file; name one, or a config of this "
                f"package: {', '.join(names)}, and those of own/ and compare/"
            )


def with_packaged_config(arguments: list[str]) -> list[str]:
    """The arguments, `--config NAME` made the path of this package's config of that name.

    `hecktor`, `own/xie2021`, `compare/table2:sts,smoke` are names; a path that exists stays.
    """
    found, is_next = [], False
    for word in arguments:
        if is_next or word.startswith("--config="):
            flag, _, value = word.rpartition("=") if not is_next else ("", "", word)
            resolved = packaged_config(value)
            found.append(f"{flag}={resolved}" if flag else resolved)
        else:
            found.append(word)
        is_next = word == "--config"
    return found


def packaged_config(name: str) -> str:
    """The path of this package's config of a name, its `:VARIANT` kept; else the name itself."""
    path, colon, variant = name.partition(":")
    if Path(path).exists():
        return name
    stem = path.removeprefix("configs/").removesuffix(".py")
    for folder in configs.__path__:
        packaged = Path(folder) / f"{stem}.py"
        if packaged.is_file() and Path(folder) in packaged.resolve().parents:
            return f"{packaged}{colon}{variant}"
    return name


def _reason(message):
    """An error of the flags on one line; of a config file that does not load, the cause alone."""
    if "Traceback" in message or "Failed loading config" in message:
        last = message.strip().splitlines()[-1].strip()
        last = last.rstrip("'") if last.count("'") % 2 else last
        if "positional argument" in last and "get_config" in last:
            return "--config: this config has no variants: nothing can stand after a colon"
        return f"--config: {re.sub(r'^[A-Za-z_.]*Error: ', '', last)}"
    shown = " ".join(message.split())
    is_quoted = shown[:1] in ("'", '"') and shown[:1] == shown[-1:]
    return shown[1:-1] if is_quoted else shown
