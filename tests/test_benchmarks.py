"""The GPU's benchmark, at toy size on the CPU: that every part of it still runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isanet_jax.errors import DataError
from isanet_jax.nifti import read_volume

ROOT = Path(__file__).parents[1]
PARTS = (
    "device",
    "numbers plain",
    "step plain bfloat16 none last",
    "operations plain bfloat16 none last",
    "predict plain bfloat16",
    "waiting plain",
    "augment",
    "step isa float32 mistyped last",
)


def test_every_part_of_the_gpu_benchmark_runs(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--toy", "--output", tmp_path),
            *("--parts", ",".join(PARTS)),
        ],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == list(PARTS)
    errors = {part: each["error"] for part, each in found.items() if "error" in each}
    assert set(errors) == {PARTS[-1]}, errors
    assert "mistyped" in errors[PARTS[-1]]
    assert found["device"]["platform"] == "cpu"
    differences = found["numbers plain"]["differences"]
    for name, each in differences.items():
        assert each["highest"] < 1e-5, name
        assert each["highest"] < each["bfloat16"], name
    step = found["step plain bfloat16 none last"]
    assert step["seconds"] > 0
    assert step["loss_is_finite"]
    assert 0 <= found["waiting plain"]["waiting_share"] <= 1
    assert len(found["operations plain bfloat16 none last"]["table"]) == 12
    report = (tmp_path / "gpu.md").read_text()
    assert "| step plain bfloat16 none last |" in report
    assert "| network plain |" in report
    assert "written to" in done.stdout


def test_what_the_time_does_not_suffice_for_is_said(tmp_path):
    from benchmarks import gpu

    gpu.main(["--toy", "--minutes", "0", "--output", str(tmp_path), "--parts", "device,augment"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["error"] for each in found.values()} == {"no time left"}


def test_nnunet_beside_ours_scores_both_and_goes_on_where_it_was(
    cohort, tmp_path, monkeypatch, capsys
):
    """All but nnU-Net itself, in whose place the reference masks are predicted."""
    from benchmarks import nnunet
    from isanet_jax.files import write_json
    from tests.cli.test_compare import CONFIG
    from tests.conftest import small_config

    base = small_config(cohort.folder)
    base["selection"] = "nested"
    # Of JSON, tuples are lists, which the command line does not set.
    tuples = "{k: tuple(v) if isinstance(v, list) else v for k, v in base['data'].items()}"
    content = CONFIG.format(base=json.dumps(base), absent="absent").replace(
        "config.base = ConfigDict(json.loads(", "config.base = with_tuples(json.loads("
    )
    content += (
        f"\ndef with_tuples(base):\n    base['data'] = {tuples}\n    return ConfigDict(base)\n"
    )
    (tmp_path / "small.py").write_text(content)
    cost = {"start_s": 5.0, "epoch_s": 40.0, "validation_s": 1.0}  # one epoch in a minute
    write_json(tmp_path / "w" / "1min" / "some" / "cost.json", cost)
    calls = []

    def stand_in(python, workdir, what, number, *options):
        raw = workdir / "nnunet" / "raw" / nnunet.DATASET
        planned = workdir / "nnunet" / "preprocessed" / nnunet.DATASET
        calls.append(what)
        if what == "prepare":
            (planned / "nnUNetPlans.json").touch()
            return
        output = options[options.index("--output") + 1]
        output.mkdir(parents=True)
        splits = json.loads((planned / "splits_final.json").read_text())
        for case in splits[0]["test"]:
            shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", output)
        (output / "training.json").write_text(json.dumps({"cpu_minutes": 1.1}))

    monkeypatch.setattr(nnunet, "worker", stand_in)
    arguments = [
        *(
            "nnunet",
            "--source",
            cohort.folder / "scans" / "cases.csv",
            "--cases",
            cohort.folder,
            "--python",
            "python",
        ),
        *("--workdir", tmp_path / "w", "--minutes", "1", "--folds", "0", "--order", "some"),
        *("--config", tmp_path / "small.py"),
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    nnunet.main()
    assert calls == ["prepare", "train"]
    planned = tmp_path / "w" / "nnunet" / "preprocessed" / nnunet.DATASET
    given = json.loads((planned / "splits_final.json").read_text())[0]
    assert set(given["train"]) == set(cohort.cases) - set(given["test"])
    out = capsys.readouterr().out
    count = sum(fold == 0 for fold in cohort.fold_of.values())
    # The reference on its own grid is itself.
    assert f"| 1 | nnU-Net | {count} | 1.0000 | 1.0000 | 0.0 | 1.000 | 0 | 1.1 |" in out
    assert f"| 1 | some | {count} | " in out
    raw = tmp_path / "w" / "nnunet" / "raw" / nnunet.DATASET
    description = json.loads((raw / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT", "1": "pet"}
    assert description["labels"] == {"background": 0, "tumour": 1}
    first = sorted(cohort.cases)[0]
    ct, pet, label = (
        read_volume(raw / folder / f"{first}{end}.nii.gz")
        for folder, end in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", ""))
    )
    assert ct.data.shape == pet.data.shape == label.data.shape
    assert pet.data.max() > 1
    assert set(np.unique(label.data)) == {0, 1}
    nnunet.main()
    assert calls == ["prepare", "train"]


def test_fields_cut_anew_keep_the_label_and_the_place_of_every_voxel(tmp_path, capsys):
    from benchmarks.field import blind, cut
    from isanet_jax.cases.check import margins_mm
    from isanet_jax.cases.grid import overlap_fraction
    from isanet_jax.datasets.phantom import write_phantoms
    from isanet_jax.datasets.table import read_table
    from isanet_jax.volume import bounds_mm

    table = write_phantoms(tmp_path / "scans", cases=2, seed=0)
    again = cut(table, tmp_path / "cut", seed=3)
    kept = []
    for before, after in zip(read_table(table), read_table(again), strict=True):
        old, new = read_volume(before.label), read_volume(after.label)
        assert new.data.sum() == old.data.sum() > 0
        assert (margins_mm(new) <= margins_mm(old)).all()
        kept += list(np.ravel(margins_mm(new) / margins_mm(old)))
        for name in before.images:
            was, now = read_volume(before.image(name)), read_volume(after.image(name))
            first = np.linalg.solve(was.affine, now.affine)[:3, 3]
            i, j, k = np.rint(first).astype(int)
            np.testing.assert_allclose(first, (i, j, k), atol=1e-5)
            a, b, c = now.data.shape
            np.testing.assert_array_equal(now.data, was.data[i : i + a, j : j + b, k : k + c])
            fields = [bounds_mm(one.data.shape, one.affine) for one in (new, now)]
            assert overlap_fraction(*fields) > 0.8
    assert np.std(kept) > 0.15  # a random part of each side, from nothing to all
    capsys.readouterr()
    blind(again)
    assert "| ellipsoid, " in capsys.readouterr().out


def test_a_field_that_ends_as_far_from_every_label_gives_it_away(tmp_path, capsys):
    from benchmarks.field import blind
    from isanet_jax.datasets.phantom import ellipsoid
    from isanet_jax.files import write_csv
    from isanet_jax.nifti import write_volume
    from isanet_jax.volume import Volume

    rows = []
    for number, shape in enumerate([(30, 40, 50), (36, 28, 44)]):
        world = [2.0 * index + 1 for index in np.ogrid[tuple(slice(n) for n in shape)]]
        label = (ellipsoid(world, shape, np.array(shape) - 20.0) <= 1).astype(np.float32)
        case, affine = f"case{number}", np.diag([2.0, 2.0, 2.0, 1.0])
        for name, data in (("ct", label * 50 - 500), ("pet", label + 1), ("label", label)):
            write_volume(tmp_path / f"{case}_{name}.nii.gz", Volume(data, affine))
        names = {name: f"{case}_{name}.nii.gz" for name in ("ct", "pet", "label")}
        rows.append({"case": case, **names})
    write_csv(tmp_path / "cases.csv", rows)
    blind(tmp_path / "cases.csv")
    out = capsys.readouterr().out
    assert "| ellipsoid, 20 mm from the field's sides | 1.000 | 1.000 |" in out
    assert "of the field | 0." in out  # a part of it fits only one of them
    write_volume(tmp_path / "case1_label.nii.gz", Volume(label * 0, affine), overwrite=True)
    with pytest.raises(DataError, match=r"case case1, .*: the label is empty"):
        blind(tmp_path / "cases.csv")


def test_what_a_benchmark_takes_from_here_is_there():
    """Most are too long for the suite: a name that was moved or removed is noticed at least."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.module.split(".")[0] not in ("benchmarks", "isanet_jax"):
                continue
            source = ROOT / node.module.replace(".", "/")
            inside = {p.stem for p in source.glob("*")}
            file = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
            text = file.read_text() if file.exists() else ""
            names = {n.name for n in node.names} - inside - set(re.findall(r"\w+", text))
            assert source.is_dir() or file.exists(), (path.name, node.module)
            assert not names, (path.name, node.module)
