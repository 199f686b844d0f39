"""The site builds, its pages say what there is, and every command of a tutorial runs."""

import base64
import gzip
import html
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest

from isanet_jax import cli
from isanet_jax.datasets.phantom import make_phantom
from isanet_jax.metrics import METRICS
from isanet_jax.network import systems
from isanet_jax.nifti import write_volume
from isanet_jax.settings import Config
from isanet_jax.settings.declare import thawed, value_of
from isanet_jax.settings.read import DECLARED
from tests.dicom import make_dicom
from tests.test_challenges import patient

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)

# A tutorial's sizes -> those of a test: the words of a command that are changed, and those added.
_SMALLER = ((r"--size (144|48)", "--size 16"), (r"data.size=48", "data.size=16"),
            (r"--spacing-mm 4\b", "--spacing-mm 12"),
            (r"spacing_mm=4\.0", "spacing_mm=12.0"),
            (r"folds=\"\(0,1\)", 'folds="(0,)'))  # fmt: skip
_TINY = {"model.width": 4, "model.levels": 2, "train.epochs": 1, "train.steps_per_epoch": 2}
_SIZES = {
    "phantom": {"data.phantoms": 6, "data.size": 16, "data.spacing_mm": 12.0},
    "sts": {"data.size": 16, "model.name": "plain"},
    "hecktor22": {"data.size": 16, "data.spacing_mm": 12.0, "model.name": "plain"},
    "autopet": {"data.patch": 8, "train.batch": 2, "model.name": "plain"},
    "nnunet": {},
    "strong_clicks": {"model.name": "plain", "optimizer.warmup_epochs": 0},
}


@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs mkdocstrings")
def test_the_site_builds_strictly(tmp_path):
    output = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(output)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    settings = html.unescape((output / "reference" / "settings" / "index.html").read_text())
    rows = dict(re.findall(r"<tr>\s*<td><code>([\w.]+)</code></td>(.*?)</tr>", settings, re.S))
    assert rows.keys() == DECLARED.keys()
    for name, row in rows.items():
        default = thawed(value_of(Config(), name))
        assert f"<code>{default!r}</code>" in row, name
        assert DECLARED[name].text[1:].rstrip(".") in row, name
    commands = (output / "reference" / "commands" / "index.html").read_text()
    for name in cli.COMMANDS:
        assert f"isanet {name}" in commands
    python = (output / "reference" / "python" / "index.html").read_text()
    assert "skip_bad" in python
    for page in output.rglob("*.html"):  # nothing is loaded from elsewhere
        assert not re.search(
            r'<(script|img|link rel="stylesheet")[^>]*(src|href)="https?:', page.read_text()
        )


def test_every_metric_has_its_definition():
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs/reference/metrics.md").read_text(), re.M
    )
    assert dict(rows) == {name: metric.heading for name, metric in METRICS.items()}


def scan(folder, names, number, *, write_label=True):
    """A phantom under these names (CT, PET, label)."""
    volumes = make_phantom(np.random.default_rng(number))
    for name, volume in zip(names[: 2 + write_label], volumes, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(folder / name, volume)


def first_run(folder, _):
    scan(folder, ("ct.nii.gz", "pet.nii.gz"), 0, write_label=False)


def own_nifti(folder, _):
    rows = ["case,ct,pet,label"]
    for number in range(1, 5):
        files = [f"a{number:02}/{name}.nii.gz" for name in ("ct", "pet", "tumour")]
        scan(folder, files, number)
        rows.append(",".join([f"a{number:02}", *files]))
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")


def scanner(folder, _):
    for number in range(4):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(folder / "dicom" / str(number), shared, seed=number)
    make_dicom.write_patient(folder / "made", make_dicom.study(patient_id="new"))
    (folder / "new").mkdir()
    (folder / "made" / "a").rename(folder / "new" / "CT")
    (folder / "made" / "b").rename(folder / "new" / "PET")


def hecktor(folder, _):
    for number in range(4):
        case = f"CHUM-{number:03}"
        names = (f"imagesTr/{case}__CT", f"imagesTr/{case}__PT", f"labelsTr/{case}")
        for name, volume in zip(names, patient(number), strict=True):
            path = folder / "hecktor" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, volume)


def autopet(folder, _):
    source = folder / "Dataset221_AutoPET"
    for number in range(4):
        case = f"case_{number}"
        names = (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}")
        scan(source, [f"{name}.nii.gz" for name in names], number)
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (source / "dataset.json").write_text(json.dumps(description))


def attention(folder, monkeypatch):
    """The file that its snippet is, and the line by which the tutorial has it loaded."""
    text = (ROOT / "docs/tutorials/attention.md").read_text()
    (snippet,) = (code for kind, code in _FENCE.findall(text) if kind == "python")
    (folder / "gate.py").write_text(snippet)


def study(folder, _):
    for number in range(2):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(folder / "dicom" / str(number), shared, seed=number)


def trial(folder, _):
    for number in range(3):
        scan(folder, [f"scans/P{number}_CT.nii.gz", f"scans/P{number}_PET.nii.gz"], number,
             write_label=False)  # fmt: skip
        *_, label = make_phantom(np.random.default_rng(number))
        for name in ("masks", "pets"):
            (folder / name).mkdir(exist_ok=True)
        write_volume(folder / "masks" / f"P{number}.nii.gz", label)
        pet = folder / "scans" / f"P{number}_PET.nii.gz"
        (folder / "pets" / f"P{number}.nii.gz").write_bytes(pet.read_bytes())


def annotate(folder, monkeypatch):
    """Four studies; a reader who, where the server runs, masks two of them and stops it."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs .[label]")
    for number in range(4):
        shared = make_dicom.study(patient_id=f"P{number}")
        make_dicom.write_patient(folder / "dicom" / str(number), shared, seed=number)
    serve = uvicorn.Server.run
    monkeypatch.setattr(uvicorn, "run", lambda app, *, port, **_: read_two(app, port, serve))


def read_two(app, port, serve):
    """Does by the page's own requests what the tutorial's reader does, then ends the server."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=serve, args=(server,), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def ask(path, content=None, method="GET"):
        url = f"http://127.0.0.1:{port}{path}"
        request = urllib.request.Request(url, content, method=method)
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error

    try:
        objects = json.loads(ask("/datastore/?output=all"))["objects"]
        is_first = not any(one["labels"] for one in objects.values())
        for case in [case for case, one in objects.items() if not one["labels"]][:2]:
            shown = json.loads(ask(f"/page/data?image={case}"))
            assert shown["has_network"] == (not is_first)
            content = gzip.decompress(ask(f"/datastore/image?image={case}"))
            shape = np.array(nibabel.Nifti1Image.from_bytes(content).shape)
            on_page = [int(shape[axis]) // 2 for axis in (2, 1, 0)]  # the middle: it is axial
            click = {"place": on_page, "by": "share" if is_first else "network", "value": 41}
            click |= {"radius_mm": 60, "class": "tumour"}
            click["clicks"] = [{"place": on_page, "here": True}]
            answer = json.loads(
                ask(f"/page/click?image={case}", json.dumps(click).encode(), "POST")
            )
            bits = np.frombuffer(gzip.decompress(base64.b64decode(answer["mask"])), np.uint8)
            mask = np.unpackbits(bits)[: shape.prod()].reshape(shape[::-1])
            mask[tuple(on_page)] = 1  # the brush
            saved = ask(
                f"/page/mask?image={case}&tag=final&base=0", gzip.compress(mask.tobytes()), "PUT"
            )
            assert json.loads(saved)["number"] == 1
    finally:
        server.should_exit = True
        thread.join()


MAKE = {
    "annotate": annotate,
    "cluster": own_nifti,
    "study": study,
    "trial": trial,
    "first-run": first_run,
    "own-nifti": own_nifti,
    "scanner": scanner,
    "hecktor": hecktor,
    "autopet": autopet,
    "attention": attention,
}


def commands_of(path):
    for kind, code in _FENCE.findall(path.read_text()):
        assert kind in ("sh", "python", "text"), f"{path.name}: {kind} is not run"
        if kind == "sh":
            yield from code.strip().splitlines()


def at_toy_size(line):
    for pattern, smaller in _SMALLER:
        line = re.sub(pattern, smaller, line)
    words = shlex.split(line)
    if words[1] == "train":
        name = words[words.index("--config") + 1].partition(":")[0]
        tiny = _TINY | _SIZES[name]
        if name == "nnunet":
            del tiny["model.levels"]
        given = {w.partition("=")[0] for w in words}
        words += [f"--config.{k}={v}" for k, v in tiny.items() if f"--config.{k}" not in given]
        if name == "phantom" and "--config.model.name=gate" not in words:
            words.append("--config.model.name=plain")
    if words[1:3] == ["prepare", "hecktor"]:
        words += ["--size", "16", "--spacing-mm", "12"]
    if words[1] == "compare":
        base = {"data.size": 16, "data.fit": "crop", "data.spacing_mm": 12.0, "model.width": 4,
                "model.levels": 2, "train.epochs": 1, "train.validate_every": 1,
                "train.steps_per_epoch": 2}  # fmt: skip
        words += [f"--config.base.{k}={v}" for k, v in base.items()]
    return words


def run_line(line, monkeypatch):
    """A command, in this process: so that what is compiled is shared."""
    if line.startswith("export "):
        name, _, value = line.removeprefix("export ").partition("=")
        paths = [os.environ.get(name, ""), str(Path(value.replace("$PWD", os.getcwd())))]
        monkeypatch.setenv(name, os.pathsep.join(paths))
        monkeypatch.delattr(systems.SYSTEMS, "data", raising=False)
        return
    _, name, *arguments = at_toy_size(line)
    module = importlib.import_module(f"isanet_jax.cli.{cli.COMMANDS[name][0]}")
    monkeypatch.setattr(sys, "argv", ["isanet", *arguments])
    if hasattr(module, "parser"):
        module.main(arguments)
    else:
        module.main()


def run_as_an_array(folder, monkeypatch):
    """The page's script as a stand-in for sbatch runs it: the shell, once for each index."""
    (script,) = (
        code
        for kind, code in _FENCE.findall((ROOT / "docs/tutorials/cluster.md").read_text())
        if "#SBATCH" in code
    )
    count = int(re.search(r"--array=1-(\d+)", script)[1])
    for number in range(3):
        names = [f"scans/{number}/{name}.nii.gz" for name in ("ct", "pet")]
        scan(folder, names, number, write_label=False)
    (line,) = [line for line in script.splitlines() if line.startswith("isanet ")]
    for index in range(1, count + 1):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", str(count))
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
        run_line(line, monkeypatch)
    assert len((folder / "out" / "patients.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("name", MAKE)
def test_every_command_of_a_tutorial_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MAKE[name](tmp_path, monkeypatch)
    for line in commands_of(ROOT / "docs" / "tutorials" / f"{name}.md"):
        if " export " in line:
            pytest.importorskip("onnxruntime")
        run_line(line, monkeypatch)
    if name == "cluster":
        run_as_an_array(tmp_path, monkeypatch)
    if name == "attention":
        systems.SYSTEMS.__dict__.pop("data", None)  # is looked for again, without this one


def test_the_comparison_of_the_tutorial_runs(tmp_path, monkeypatch):
    from isanet_jax.cases.cohort import read_cohort
    from isanet_jax.cases.prepare_cohort import prepare_phantoms

    monkeypatch.chdir(tmp_path)
    prepare_phantoms(tmp_path / "cases" / "sts32", cases=6, size=16, seed=1, folds=3)
    cohort = read_cohort(tmp_path / "cases" / "sts32")
    first, second = commands_of(ROOT / "docs" / "tutorials" / "comparison.md")
    run_line(first, monkeypatch)
    report = (tmp_path / "runs" / "t2" / "report.md").read_text()
    assert "U-Net+ISA-Net" in report
    from isanet_jax.cases.case import read_label_on_reference

    for case, fold in cohort.fold_of.items():
        mask = read_label_on_reference(cohort.path(case))
        path = tmp_path / "masks" / f"fold{fold}" / f"{case}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, mask)
    run_line(second, monkeypatch)
    assert "other" in (tmp_path / "runs" / "t2" / "report.md").read_text()


def test_every_tutorial_is_run():
    assert {path.stem for path in TUTORIALS} == {*MAKE, "comparison"}
