"""Pages of the site that are made of the program itself, and links that lead out of docs/."""

import importlib
import json
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")


def on_files(files, config):
    """Adds the pages of commands and settings, and the notebook."""
    sys.path.insert(0, str(ROOT))
    pages = {
        "reference/commands": commands(),
        "reference/settings": settings(),
        "tutorials/interface": notebook(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"{name}.md", content=content))
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

    return _LINK.sub(shown, markdown.replace("(interface.ipynb)", "(tutorials/interface.md)"))


def notebook() -> str:
    """The notebook's texts and code, as a page."""
    cells = json.loads((ROOT / "docs" / "interface.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell in cells
        for text in ["".join(cell["source"])]
    )


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
    """Every setting, as isanet_jax/settings/table.py declares it."""
    from isanet_jax.settings import Config
    from isanet_jax.settings.declare import thawed, value_of
    from isanet_jax.settings.read import DECLARED

    lines = ["# Settings", "", "`--config.NAME=VALUE` changes one. The defaults are the paper's; "
             "configs change some.", "", "| setting | default | what it means | what it may be |",
             "|---|---|---|---|"]  # fmt: skip
    for name, one in DECLARED.items():
        said = [one.text[0].upper() + one.text[1:]]
        if one.read_by:
            by, values = one.read_by
            readers = " or ".join(f"`{thawed(value)}`" for value in values[:2]) or "some"
            said.append(f"Read with `{by}` {readers}")
        text = ". ".join(part.rstrip(".") for part in said).replace("|", r"\|")
        default = thawed(value_of(Config(), name))
        lines.append(f"| `{name}` | `{default!r}` | {text}. | {one.allowed} |")
    return "\n".join(lines) + "\n"
