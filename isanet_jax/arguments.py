"""How programs are called, and what of their command lines is taken before anything else."""

import argparse
import sys
from pathlib import Path

from isanet_jax.errors import ConfigError

_SCRIPTS = ("prepare.py", "train.py", "eval.py", "predict.py")  # of a clone
AS_MODULE = "python -m isanet_jax"


class Parser(argparse.ArgumentParser):
    """A parser that can say which options it has, for `isanet completion`.

    Attributes:
        options: that were added to it, as argparse's actions.
        programs: name -> the parser of each of its sub-commands.
    """

    def __init__(self, *args, **kwargs):
        self.options, self.programs = [], {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args, **kwargs):
        action = super().add_argument(*args, **kwargs)
        self.options.append(action)
        return action

    def add_subparsers(self, **kwargs):
        action = super().add_subparsers(**kwargs)
        self.programs = action.choices
        return action


def command(name: str) -> str:
    """How the user calls a program: `isanet train`, unless another one was called otherwise."""
    is_script = Path(sys.argv[0]).name in _SCRIPTS
    if is_script and f"{name}.py" in _SCRIPTS:
        return f"python {name}.py"
    by_module = is_script or sys.argv[0].startswith(AS_MODULE)
    return f"{AS_MODULE if by_module else 'isanet'} {name}"


def image_flags(names) -> str:
    """How the user gives `isanet predict` images of these names."""
    words = {"ct": "--ct CT", "pet": "--pet PET"}
    return " ".join(words.get(name, f"--image {name}=FILE") for name in names)


def config_name(name: str) -> str:
    """How the user names a config: `configs/hecktor.py` in a clone, else `hecktor`."""
    return f"configs/{name}.py" if Path(sys.argv[0]).name in _SCRIPTS else name


def take_number(argv, flag: str, default: int, meaning: str) -> tuple[list[str], int]:
    """Takes `FLAG N` or `FLAG=N`, N at least 1, out of a command line.

    Returns:
        the rest of the command line, and N or the default.

    Raises:
        ConfigError: no such number.
    """
    rest, value = take_word(argv, flag)
    if value is None:
        return rest, default
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"{flag} is {value!r}; give {meaning}")
    return rest, int(value)


def take_word(argv, flag: str) -> tuple[list[str], str | None]:
    """Takes `FLAG WORD` or `FLAG=WORD` out of a command line; None: it is not there."""
    rest, value = [], None
    words = iter(argv)
    for word in words:
        if word == flag:
            value = next(words, "")
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
        else:
            rest.append(word)
    return rest, value


def take_flag(argv, flag: str) -> tuple[list[str], bool]:
    """Takes a flag out of a command line; returns the rest, and whether it was there."""
    rest = [word for word in argv if word != flag]
    return rest, len(rest) < len(argv)


def add_machines(parser: Parser, what: str) -> None:
    """Adds --part and --cluster: the work shared by processes or machines of the same files."""
    parser.add_argument(
        "--part",
        metavar="I/N",
        help=f"the I-th of N parts of the {what}, for a process or machine of its own; `auto`: as "
        "SLURM's array or a Kubernetes indexed job says",
    )
    parser.add_argument(
        "--cluster",
        metavar="tcp://HOST:PORT",
        help="a Dask scheduler whose workers do the work; they see the same files",
    )
