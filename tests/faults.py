"""One-line faults put into the package, each against the tests of its file: which are noticed?

    python -m tests.faults --count 100 --seed 0 --output faults.csv [--only isanet_jax/volume.py]

Works on a copy of the checkout. Functions are drawn evenly over all files; within one, a fault of
those that could matter is (a comparison, a number, an operator, a `not`, a function that
has an opposite).
faults.csv beside this file has what came of the last draw.
"""

import argparse
import ast
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Files whose tests do not stand at the mirrored place, or not there alone.
TESTS = {
    "isanet_jax/__init__.py": "tests/test_api.py",
    "isanet_jax/api.py": "tests/test_api.py",
    "isanet_jax/arguments.py": "tests/test_programs.py tests/cli/test_habits.py",
    "isanet_jax/classes.py": "tests/test_classes.py",
    "isanet_jax/errors.py": "tests/test_locks.py tests/prediction tests/test_volume.py",
    "isanet_jax/files.py": "tests/test_files.py tests/test_volume.py tests/cases",
    "isanet_jax/kinds.py": "tests/test_classes.py tests/datasets",
    "isanet_jax/locks.py": "tests/test_locks.py",
    "isanet_jax/machine.py": "tests/training/test_cost.py tests/training/test_loop.py",
    "isanet_jax/nifti.py": "tests/test_volume.py tests/test_fuzz.py tests/test_geometry.py",
    "isanet_jax/parallel.py": "tests/test_locks.py tests/cases/test_prepare.py "
    "tests/test_cluster.py",
    "isanet_jax/registry.py": "tests/test_registry.py",
    "isanet_jax/runtime.py": "tests/test_programs.py tests/cli/test_habits.py",
    "isanet_jax/streams.py": "tests/test_programs.py tests/cli/test_habits.py",
    "isanet_jax/volume.py": "tests/test_volume.py tests/test_geometry.py",
    "isanet_jax/claims.py": "tests/test_claims.py",
    "isanet_jax/models/__init__.py": "tests/cli/test_predict_folder.py tests/docs/test_docs.py",
    "isanet_jax/quantify": "tests/quantify",
    "isanet_jax/annotate": "tests/annotate",
    "isanet_jax/evaluation/predicted.py": "tests/cli/test_predict_folder.py",
    "isanet_jax/evaluation/burden.py": "tests/quantify tests/cli/test_evaluate.py",
    "isanet_jax/network/guidance.py": "tests/network/test_guidance.py "
    "tests/training/test_guided.py",
    "isanet_jax/cli/label.py": "tests/annotate",
    "isanet_jax/cli/next.py": "tests/annotate",
    "isanet_jax/cli/review.py": "tests/annotate",
    "isanet_jax/cli/lesions.py": "tests/cli/test_predict_folder.py",
    "isanet_jax/cases": "tests/cases",
    "isanet_jax/cases/prepare.py": "tests/cases tests/dicom/test_studies.py",
    "isanet_jax/cases/images.py": "tests/cases tests/dicom/test_studies.py",
    "isanet_jax/cases/label.py": "tests/cases tests/dicom/test_studies.py",
    "isanet_jax/cases/grid.py": "tests/cases tests/test_geometry.py",
    "isanet_jax/cases/ranges.py": "tests/cases tests/cli/test_predict.py",
    "isanet_jax/cases/cohort.py": "tests/cases tests/test_locks.py",
    "isanet_jax/cases/prepare_cohort.py": "tests/cases tests/test_locks.py",
    "isanet_jax/cases/identity.py": "tests/cases tests/runs/test_seen.py",
    "isanet_jax/cases/doubts.py": "tests/cases",
    "isanet_jax/runs/seen.py": "tests/runs/test_seen.py",
    "isanet_jax/runs/description.py": "tests/runs/test_bundle.py",
    "isanet_jax/comparison/basis.py": "tests/cli/test_compare.py",
    "isanet_jax/cases/check.py": "tests/cases tests/dicom/test_studies.py",
    "isanet_jax/cli": "tests/cli tests/test_programs.py",
    "isanet_jax/cli/__init__.py": "tests/test_programs.py tests/cli/test_habits.py",
    "isanet_jax/cli/node.py": "tests/node",
    "isanet_jax/cli/export.py": "tests/export",
    "isanet_jax/cli/bundle.py": "tests/runs/test_bundle.py",
    "isanet_jax/cli/tune.py": "tests/evaluation/test_tune.py",
    "isanet_jax/cli/plan.py": "tests/planning",
    "isanet_jax/cli/prepare.py": "tests/cli/test_prepare.py tests/cases "
    "tests/dicom/test_studies.py",
    "isanet_jax/cli/predict.py": "tests/cli/test_predict.py tests/cli/test_predict_folder.py "
    "tests/prediction",
    "isanet_jax/comparison": "tests/comparison tests/cli/test_compare.py",
    "isanet_jax/datasets": "tests/datasets tests/cases/test_prepare.py",
    "isanet_jax/datasets/dicom.py": "tests/dicom tests/datasets",
    "isanet_jax/dicom": "tests/dicom",
    "isanet_jax/distributed/mesh.py": "tests/training/test_mesh.py tests/training/test_loop.py",
    "isanet_jax/distributed/placement.py": "tests/training/test_mesh.py",
    "isanet_jax/distributed/processes.py": "tests/training/test_processes.py",
    "isanet_jax/evaluation": "tests/cli/test_evaluate.py tests/metrics tests/evaluation",
    "isanet_jax/evaluation/tune.py": "tests/evaluation/test_tune.py",
    "isanet_jax/export": "tests/export",
    "isanet_jax/losses": "tests/losses tests/docs/test_extending.py",
    "isanet_jax/metrics": "tests/metrics",
    "isanet_jax/network": "tests/network/test_forward.py tests/network/test_backbone.py",
    "isanet_jax/network/blocks.py": "tests/network/test_forward.py tests/network/test_attention.py",
    "isanet_jax/network/attention": "tests/network/test_attention.py",
    "isanet_jax/network/attention/isa.py": "tests/network/test_backbone.py",
    "isanet_jax/network/cascade.py": "tests/network/test_cascade.py tests/network/test_forward.py",
    "isanet_jax/network/config.py": "tests/network/test_backbone.py tests/network/test_systems.py",
    "isanet_jax/network/convolution": "tests/network/test_convolution.py",
    "isanet_jax/network/initial.py": "tests/network/test_attention.py "
    "tests/network/test_systems.py",
    "isanet_jax/network/nnunet.py": "tests/network/test_systems.py tests/network/test_forward.py",
    "isanet_jax/network/recompute.py": "tests/network/test_remat.py",
    "isanet_jax/network/system.py": "tests/network/test_backbone.py tests/network/test_systems.py",
    "isanet_jax/network/systems.py": "tests/network/test_systems.py tests/test_api.py",
    "isanet_jax/network/whole_volume.py": "tests/network/test_whole_volume.py",
    "isanet_jax/node": "tests/node",
    "isanet_jax/pipeline": "tests/pipeline tests/training/test_golden_step.py",
    "isanet_jax/planning": "tests/planning",
    "isanet_jax/prediction": "tests/prediction tests/cli/test_predict.py tests/test_api.py",
    "isanet_jax/prediction/predictor.py": "tests/prediction tests/test_several.py",
    "isanet_jax/runs": "tests/runs tests/training/test_loop.py",
    "isanet_jax/runs/track.py": "tests/cli/test_habits.py",
    "isanet_jax/settings": "tests/settings tests/training/test_check.py",
    "isanet_jax/training": "tests/training/test_loop.py tests/training/test_golden_step.py",
    "isanet_jax/training/check.py": "tests/training/test_check.py tests/training/test_mesh.py",
    "isanet_jax/training/cost.py": "tests/training/test_cost.py tests/training/test_loop.py",
    "isanet_jax/training/optimizer.py": "tests/training/test_optimizer.py "
    "tests/training/test_loop.py",
    "isanet_jax/training/picture.py": "tests/cli/test_habits.py",
    "isanet_jax/training/profile.py": "tests/training/test_profile.py",
    "isanet_jax/training/schedule.py": "tests/training/test_schedule.py",
    "isanet_jax/training/start.py": "tests/training/test_start.py",
    "isanet_jax/training/validate.py": "tests/training/test_loop.py tests/test_several.py",
}
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {"all": "any", "any": "all", "min": "max", "max": "min", "floor": "ceil", "ceil": "floor",
         "sum": "max", "sorted": "list"}  # fmt: skip


def faults_of(function, source):
    """(line, old text, new text) of every fault that a function's own lines can have."""
    found = []
    for node in ast.walk(function):
        for old, new in changes(node):
            text = ast.get_source_segment(source, node)
            if text and "\n" not in text and old != new and text.count(old) >= 1:
                found.append((node, text, text.replace(old, new, 1)))
    return found


def changes(node):
    """(old, new) texts within a node's own source."""
    symbols = {
        ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
        ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.Add: "+",
        ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.And: "and", ast.Or: "or",
        ast.FloorDiv: "//", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|",
    }  # fmt: skip
    operators = []
    if isinstance(node, ast.Compare):
        operators = node.ops[:1]
    elif isinstance(node, (ast.BinOp, ast.BoolOp)):
        operators = [node.op]
    for operator in operators:
        if type(operator) in SWAPS:
            yield f" {symbols[type(operator)]} ", f" {symbols[SWAPS[type(operator)]]} "
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not ", ""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
        yield repr(value), repr(value + 1 if type(value) is int else value * 1.5)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield repr(node.value), repr(not node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if name in NAMES:
            yield f"{name}(", f"{NAMES[name]}("


def draw(count, seed, only):
    """`count` faults: (path, function, line, whole old line, whole new line)."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    functions = []
    for path in sorted((ROOT / "isanet_jax").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if only and name != only:
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and faults_of(node, source):
                functions.append((name, source, node))
    drawn = []
    while len(drawn) < count and functions:
        name, source, function = functions.pop(generator.randrange(len(functions)))
        node, old, new = generator.choice(faults_of(function, source))
        lines = source.splitlines()
        line = lines[node.lineno - 1]
        start = len(line.encode()[: node.col_offset].decode())
        changed = line[:start] + line[start:].replace(old, new, 1)
        if changed != line:
            drawn.append((name, function.name, node.lineno, line, changed))
    return drawn


def _not_the_users(folder, names):
    """What lies beside the checkout's own files: environments, and a clone's cases and runs."""
    at_top = {"runs", "cases", "check"} if Path(folder) == ROOT else set()
    return [name for name in names if name in at_top or name.startswith(".venv")]


def tests_of(name):
    """The tests of a file: of itself, else of its nearest folder."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        if found := TESTS.get("/".join(parts[:end])):
            return found.split()
    raise KeyError(name)


def main():
    """Draws, tries and writes down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=1, help="number of the first to try")
    parser.add_argument("--last", type=int, help="number of the last")
    parser.add_argument("--only", help="one file of the package")
    parser.add_argument("--output", default="faults.csv")
    parser.add_argument("--timeout", type=int, default=900, help="seconds: noticed by not ending")
    args = parser.parse_args()
    drawn = draw(args.count, args.seed, args.only)
    with tempfile.TemporaryDirectory() as folder, open(args.output, "w", newline="") as file:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=_not_the_users)
        if (ROOT.parent / "shared").exists():
            os.symlink(ROOT.parent / "shared", Path(folder) / "shared")
        writer = csv.writer(file)
        writer.writerow(["number", "noticed", "file", "function", "line", "before", "after"])
        numbered = list(enumerate(drawn, start=1))[args.first - 1 : args.last]
        for number, (name, function, line, before, after) in numbered:
            path = copy / name
            source = path.read_text(encoding="utf-8")
            lines = source.splitlines(keepends=True)
            lines[line - 1] = after + "\n"
            path.write_text("".join(lines), encoding="utf-8")
            tests = [test for test in tests_of(name) if (copy / test).exists()]
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-n",
                "0",
                "-p",
                "no:cacheprovider",
                *tests,
            ]
            try:
                done = subprocess.run(
                    command, cwd=copy, capture_output=True, timeout=args.timeout, check=False
                )
                noticed = done.returncode != 0
            except subprocess.TimeoutExpired:
                noticed = True
            path.write_text(source, encoding="utf-8")
            writer.writerow([number, noticed, name, function, line, before.strip(), after.strip()])
            file.flush()
            print(f"{number}/{len(drawn)} {'noticed' if noticed else 'SURVIVED'} {name}:{line} "
                  f"{after.strip()}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
