"""What may import what: docs/architecture.md."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "isanet_jax"
ORDER = (
    *(
        "errors",
        "files",
        "locks",
        "claims",
        "runtime",
        "registry",
        "arguments",
        "machine",
        "streams",
        "models",
        "volume",
        "nifti",
        "classes",
        "kinds",
        "configs",
        "dicom",
        "datasets",
        "parallel",
    ),
    *("cases", "settings", "pipeline", "distributed", "network", "losses", "metrics", "runs"),
    *("training", "planning", "quantify"),
    *("prediction", "export", "node", "evaluation", "comparison", "api", "annotate", "cli"),
)
# Base modules, of which each may use the others.
BASE = (
    "errors",
    "files",
    "locks",
    "runtime",
    "registry",
    "volume",
    "nifti",
    "arguments",
    "machine",
    "streams",
)


def stage(module):
    return module.split(".")[1]


def imports(path):
    """The modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("isanet_jax."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("isanet_jax"):
            if node.module == "isanet_jax":
                yield from (f"isanet_jax.{a.name}" for a in node.names)
            else:
                yield node.module


def test_a_stage_imports_only_from_those_before_it():
    backwards = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if name in ("__init__", "__main__"):
            continue
        for module in imports(path):
            target = stage(module)
            if target in (name, "__version__") or (name in BASE and target in BASE):
                continue
            if target not in ORDER or ORDER.index(target) > ORDER.index(name):
                backwards.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not backwards


def test_every_module_has_its_place_in_the_order():
    found = {p.stem for p in ROOT.iterdir() if p.is_dir() or p.suffix == ".py"}
    assert found - {"__init__", "__main__", "__pycache__"} == set(ORDER)
