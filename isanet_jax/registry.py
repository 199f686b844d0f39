"""What one file can add: a system, a dataset, a loss, a metric, an output format.

A file declares it by a name at its top level, as `SYSTEMS = {"mine": System(...)}`. The file stands
in the package's folder of that kind, or anywhere else and is named by the environment variable
ISANET_EXTENSIONS, which every process that the programs start inherits.
"""

import collections
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from isanet_jax.errors import ConfigError

VARIABLE = "ISANET_EXTENSIONS"


class Registry(collections.UserDict):
    """Name -> what was declared under it, looked for when it is first asked for.

    Args:
        attribute: the name by which a file declares its entries.
        packages: names of the packages whose modules are looked through.
        entries: what a file declared -> its entries by name.
        order: (name, entry) -> the key by which they are sorted; None: as they are found.
    """

    def __init__(
        self,
        attribute: str,
        *packages: str,
        entries: Callable[[object], Mapping] = dict,
        order: Callable[[tuple], object] | None = None,
    ):
        self._attribute, self._packages = attribute, packages
        self._entries, self._order = entries, order

    @functools.cached_property
    def data(self) -> dict:
        """The entries.

        Raises:
            ConfigError: two files declare the same name, or an extension cannot be loaded.
        """
        found = {}
        for module in [*_modules(self._packages), *extensions()]:
            declared = getattr(module, self._attribute, None)
            # A package's own registry has the name that its modules declare theirs by.
            if declared is None or isinstance(declared, Registry):
                continue
            here = self._entries(declared)
            if clash := found.keys() & here.keys():
                name = clash.pop()
                raise ConfigError(f"{module.__name__}: {self._attribute} has {name!r} already")
            found |= here
        return dict(sorted(found.items(), key=self._order)) if self._order else found


def _modules(packages):
    """The modules of packages, but for those whose names begin with an underscore."""
    for name in packages:
        path = importlib.import_module(name).__path__
        for file in pkgutil.iter_modules(path, f"{name}."):
            if not file.name.rpartition(".")[2].startswith("_"):
                yield importlib.import_module(file.name)


def extensions() -> list[ModuleType]:
    """The files that ISANET_EXTENSIONS names, separated as in PATH, each loaded once.

    Raises:
        ConfigError: a file that is not there or fails when it is loaded.
    """
    names = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [_load(Path(name).absolute()) for name in names if name]


@functools.cache
def _load(path):
    name = f"isanet_extension_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not path.is_file():
        raise ConfigError(f"{VARIABLE} names {path}; give paths of Python files (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{VARIABLE} names {path}, which does not load: {type(error).__name__}: {error}"
        ) from error
    return module
