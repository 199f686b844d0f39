"""Pages of the site that are made of the program itself, and links that lead out of docs/."""

import importlib
import inspect
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")


def on_files(files, config):
    """Adds the pages of commands and settings."""
    sys.path.insert(0, str(ROOT))
    for name, content in (("commands", commands()), ("settings", settings())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Shows links to files of the repository that are no pages as their paths."""
    here = Path(config["docs_dir"]) / Path(page.file.src_uri).parent

    def shown(match):
        target = (here / match[2]).resolve()
        if target.is_relative_to(Path(config["docs_dir"]).resolve()):
            return match[0]
        path = f"`{target.relative_to(ROOT)}`"
        return (
            path if match[1].strip("`") in (match[2], path.strip("`")) else f"{match[1]} ({path})"
        )

    return _LINK.sub(shown, markdown)


def commands() -> str:
    """Every program's help, as its parser prints it."""
    from isanet_jax import cli

    parts = ["# Commands", "", "As `isanet PROGRAM --help` prints them.", ""]
    for name, (module, text) in cli.COMMANDS.items():
        made = importlib.import_module(f"isanet_jax.cli.{module}")
        parts += [f"## isanet {name}", "", f"{text[0].upper()}{text[1:]}.", "", "```text"]
        if hasattr(made, "parser"):
            parser = made.parser()
            parser.prog = f"isanet {name}"
            parts.append(parser.format_help().rstrip())
        else:
            parts.append(made._USAGE.format(command=f"isanet {name}", config="NAME"))
        parts += ["```", ""]
    return "\n".join(parts)


def settings() -> str:
    """configs/hecktor.py: every setting, its default and its comment."""
    from isanet_jax.configs import hecktor

    lines = ["# Settings", "", "`--config.NAME=VALUE` changes one. Of `configs/hecktor.py`; other "
             "configs change a few.", "", "| setting | default | |", "|---|---|---|"]  # fmt: skip
    comment = []
    for line in inspect.getsource(hecktor.get_config).splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.lstrip("# "))
        elif match := re.match(r"config\.([\w.]+) = (.+?)(?:\s+# (.*))?$", text):
            name, value, after = match.groups()
            if not value.startswith("ConfigDict"):
                value = re.sub(r"^_any\((.*)\)$", r"\1", value)
                said = " ".join(filter(None, (*comment, after))).replace("|", r"\|")
                lines.append(f"| `{name}` | `{value}` | {said} |")
            comment = []
        else:
            comment = []
    return "\n".join(lines) + "\n"
