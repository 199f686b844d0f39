"""The command line of `isanet completion`."""

import importlib
from pathlib import Path

from isanet_jax.arguments import Parser
from isanet_jax.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")
# Of the programs whose settings are a config's: see their usage.
_OF_CONFIGS = {
    "train": ("--config", "--workdir", "--profile", "--print-config", "--track"),
    "compare": ("--config", "--workdir", "--jobs", "--print-config"),
}


def parser() -> Parser:
    """The arguments of `isanet completion`."""
    root = Parser(
        description="Prints what lets a shell complete the command isanet: its programs, their "
        "options, files. For bash: isanet completion bash > "
        "~/.local/share/bash-completion/completions/isanet",
    )
    root.add_argument("shell", choices=SHELLS)
    return root


def whole_parser() -> Parser:
    """The parser of `isanet` with all of its programs."""
    import shtab

    from isanet_jax import cli

    root = Parser(prog="isanet")
    root.add_argument("--version", action="store_true")
    programs = root.add_subparsers()
    for name, (module, text) in cli.COMMANDS.items():
        made = programs.add_parser(name, help=text)
        if name in _OF_CONFIGS:
            for flag in _OF_CONFIGS[name]:
                made.add_argument(flag)
        else:
            made = importlib.import_module(f"isanet_jax.cli.{module}").parser()
            made.prog = f"isanet {name}"
            programs.choices[name] = made
        _complete_files(made, shtab.FILE)
    return root


def _complete_files(made, files):
    """Lets every option that takes a text take a file's name."""
    for below in made.programs.values():
        _complete_files(below, files)
    for action in made.options:
        if action.nargs != 0 and action.choices is None and action.type in (None, Path):
            action.complete = files


def main(arguments=None) -> None:
    """Prints the completion."""
    args = parser().parse_args(arguments)
    try:
        import shtab
    except ImportError as error:
        raise ConfigError("completion needs the package shtab: pip install shtab") from error
    print(shtab.complete(whole_parser(), shell=args.shell))
