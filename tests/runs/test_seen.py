"""Which cases figures may be of: from a training over its model to the next training."""

import json
import shutil

import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cases.folds import Split
from isanet_jax.cases.preparation import settings_of
from isanet_jax.cases.prepare_cohort import prepare
from isanet_jax.cli import bundle, evaluate, tune
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.nifti import read_volume, write_volume
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.bundle import read_bundle
from isanet_jax.runs.seen import (
    carried_on,
    check_same,
    identities,
    in_cohort,
    overlap_of_start,
    seen,
    unseen_cases,
)
from isanet_jax.volume import Volume
from tests.conftest import small_config


@pytest.fixture
def cases(cohort_folder, tmp_path):
    """A copy of the cohort and of its scans, whose table may be changed."""
    shutil.copytree(cohort_folder, tmp_path / "cases")
    return tmp_path / "cases"


def again(folder, rows=(), **options):
    """Prepares the cohort's table again, with more rows of it."""
    table = folder / "scans" / "cases.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, *rows]) + "\n")
    settings = settings_of(json.loads((folder / "manifest.json").read_text())["settings"])
    options = {"kind": "phantom", "folds": 3, "seed": 1, "workers": 1} | options
    return prepare(read_table(table), settings, folder, **options)


def roles(description, cohort):
    return in_cohort(description, cohort)["split"]


@pytest.fixture
def model(trained, tmp_path):
    words = ["--workdir", str(trained), "--output", str(tmp_path / "model.isanet")]
    bundle.main(words)
    return tmp_path / "model.isanet"


def test_a_model_knows_the_second_scan_and_the_copy_of_what_it_has_learnt_from(
    model, trained, cases, cohort, tmp_path, capsys
):
    own = Predictor([trained]).descriptions[0]["split"]
    learnt, tested = own["train"][0], own["test"][0]
    scans = cases / "scans"
    # A second scan of a patient it has learnt from, and one of a patient it has not; a copy of a
    # scan under another name and in another compression; somebody else.
    for case, source, number in (("second", learnt, 3), ("later", tested, 3), ("new", learnt, 5)):
        (scans / case).mkdir()
        for name in ("ct", "pet", "label"):
            volume = read_volume(scans / source / f"{name}.nii.gz")
            write_volume(
                scans / case / f"{name}.nii.gz",
                Volume(np.roll(volume.data, number, 1), volume.affine, volume.header),
            )
    (scans / "copy").mkdir()
    for name in ("ct", "pet", "label"):
        volume = read_volume(scans / learnt / f"{name}.nii.gz")
        write_volume(scans / "copy" / f"{name}.nii", volume)
    head, *lines = (scans / "cases.csv").read_text().splitlines()
    assert head == "case,ct,pet,label"
    lines = [f"{line},{line.split(',')[0]}" for line in lines]
    (scans / "cases.csv").write_text("\n".join([f"{head},patient", *lines]))
    rows = [
        f"{case},{case}/ct.{end},{case}/pet.{end},{case}/label.{end},{patient}"
        for case, patient, end in (
            ("second", learnt, "nii.gz"),
            ("later", tested, "nii.gz"),
            ("copy", "P99", "nii"),
            ("new", "P98", "nii.gz"),
        )
    ]
    again(cases, rows)
    now = read_cohort(cases)
    assert now.fold_of.items() >= cohort.fold_of.items()
    for start in (trained, model):
        (description,) = Predictor([start]).descriptions
        found = roles(description, now)
        assert set(found["train"]) == {*own["train"], "second", "copy"}
        assert set(found["test"]) == {*own["test"], "later"}
        words = ["--workdir", str(start), "--cases", str(cases), "--output", str(tmp_path / "e")]
        evaluate.main([*words, "--overwrite"])
        scored = json.loads((tmp_path / "e" / "metrics.json").read_text())
        assert set(scored["cases"]) == {*own["test"], "later", "new"}
        out = capsys.readouterr().out
        assert "6 of the 10 cases in" in out
        assert "6 trained on (copy, " in out

    # A fine-tuning whose test fold the model has learnt from is refused; others go on.
    config = small_config(cases) | {"init": str(model), "fold": 1}
    config["train"]["epochs"] = 1
    refusal = r"init is .*model.isanet, which has learnt from .* of the test fold .*init_seen=True"
    with pytest.raises(ConfigError, match=refusal):
        isa.train(config, tmp_path / "refused")
    assert not (tmp_path / "refused" / "checkpoints" / "latest").exists() or not any(
        (tmp_path / "refused" / "checkpoints" / "latest").iterdir()
    )
    assert isa.train(config | {"fold": 0}, tmp_path / "same")
    (description,) = Predictor([tmp_path / "same"]).descriptions
    assert roles(description, now)["before_train"] == sorted({*own["train"], "second", "copy"})

    # What it was started from is passed on, over a second fine-tuning and its model.
    isa.train(config | {"fold": 0, "init": str(tmp_path / "same"), "seed": 3}, tmp_path / "third")
    bundle.main(["--workdir", str(tmp_path / "third"), "--output", str(tmp_path / "third.isanet")])
    third = read_bundle(tmp_path / "third.isanet")
    ((description, _),) = third.networks
    assert set(roles(description, now)["before_train"]) >= {*own["train"], "second", "copy"}
    for case in (*own["train"], "second", "copy"):
        assert now.cases[case]["content"] in third.card
        assert f" {case}" not in third.card

    # With the flag it goes on, and every table says so.
    assert isa.train(config | {"init_seen": True}, tmp_path / "flagged")
    for start in (tmp_path / "flagged", _bundled(tmp_path / "flagged", tmp_path / "f.isanet")):
        words = ["--workdir", str(start), "--cases", str(cases), "--output", str(tmp_path / "f")]
        evaluate.main([*words, "--overwrite"])
        content = json.loads((tmp_path / "f" / "metrics.json").read_text())
        count = content["runs"][0]["start_has_seen"]["test"]
        assert count > 0
        note = f"NOT INDEPENDENT: its start (--config.init) had seen {count} of its test cases"
        assert note in (tmp_path / "f" / "report.md").read_text()
        assert note in (tmp_path / "f" / "report.html").read_text()
        assert note in "".join(capsys.readouterr())
    assert f"seen {count} of its test cases" in read_bundle(tmp_path / "f.isanet").card


def _bundled(workdir, output):
    bundle.main(["--workdir", str(workdir), "--output", str(output)])
    return output


def test_a_run_is_not_resumed_on_other_cases(cases, tmp_path):
    config = small_config(cases)
    config["train"]["epochs"] = 1
    assert isa.train(config, tmp_path / "run")
    assert isa.train(config, tmp_path / "run")
    split = Predictor([tmp_path / "run"]).descriptions[0]["split"]
    scans = cases / "scans"

    def changed(case, name):
        path = scans / case / f"{name}.nii.gz"
        volume = read_volume(path)
        data = np.roll(volume.data, 2, 0)
        write_volume(path, Volume(data, volume.affine, volume.header), overwrite=True)

    # Of a test case that is not chosen on, a label may be mended.
    nested = config | {"selection": "nested"}
    assert isa.train(nested, tmp_path / "nested")
    changed(split["test"][0], "label")
    again(cases)
    assert isa.train(nested, tmp_path / "nested")
    with pytest.raises(ConfigError, match=rf"{split['test'][0]}: other voxels or another label"):
        isa.train(config, tmp_path / "run")  # selection paper: chosen on them
    changed(split["test"][0], "ct")
    again(cases)
    with pytest.raises(ConfigError, match=rf"{split['test'][0]}: another image than then"):
        isa.train(nested, tmp_path / "nested")
    again(cases, refold=True, folds=2)
    with pytest.raises(
        ConfigError,
        match=r"(?s)run was trained on other cases than there are now:\n  train: .* then, and not "
        r"now.*new --workdir, from nothing or from this run \(--config.init=.*run\)",
    ):
        isa.train(config, tmp_path / "run")


def test_rules_are_not_chosen_on_what_a_network_has_seen(cases, trained, tmp_path, capsys):
    """Two patients of one scan in two folds, as an earlier version dealt them."""
    own = Predictor([trained]).descriptions[0]["split"]
    manifest = json.loads((cases / "manifest.json").read_text())
    by_case = {entry["case"]: entry for entry in manifest["cases"]}
    by_case[own["test"][0]]["content"] = by_case[own["train"][0]]["content"]
    for entry in manifest["cases"]:
        del entry["directory"]
        entry.pop("digest")
    by_case[own["test"][0]].pop("sources")
    by_case[own["test"][0]]["sources"] = {"ct": "other"}
    (cases / "manifest.json").write_text(json.dumps(manifest))
    words = ["--workdir", str(trained), "--cases", str(cases)]
    split = in_cohort(Predictor([trained]).descriptions[0], read_cohort(cases))
    assert own["test"][0] in seen(split)
    assert own["test"][0] not in unseen_cases(read_cohort(cases), [split])
    tune.main([*words, "--output", str(tmp_path / "rules.json")])
    chosen = json.loads((tmp_path / "rules.json").read_text())
    assert chosen["cases"] == own["test"][1:]
    assert "1 trained on" in capsys.readouterr().out


class _Cohort:
    """Cases that are known by their names."""

    def __init__(self, names, folder="cases"):
        self.folder = folder
        self.fold_of = {name: number % 3 for number, name in enumerate(names)}
        self.cases = {
            name: {"case": name, "patient": name, "sources": {"ct": name}} for name in names
        }


def description(cohort, train="", selection="", test="", before_train="", **more):
    parts = Split(tuple(train), tuple(selection), tuple(test))
    known = identities(cohort, parts)
    known["before_train"] = [
        identities(cohort, Split((case,), (), ()))["train"][0] for case in before_train
    ]
    split = {"train": list(train), "selection": list(selection), "test": list(test)}
    return {"split": split, "identities": known, **more}


def test_unseen_cases():
    cohort = _Cohort("abcdef")

    def unseen(*descriptions, of=cohort):
        return "".join(unseen_cases(of, [in_cohort(one, of) for one in descriptions]))

    first = description(cohort, "ab", "c", "d")
    second = description(cohort, "ad", "e", "e")
    assert unseen(first) == "def"
    assert unseen(first, second) == "ef"
    assert unseen(description(cohort, "ab", "c", "d", before_train="de")) == "f"
    flagged = description(cohort, "ab", "c", "d", before_train="de", overlap={"test": ["d"]})
    assert unseen(flagged) == "df"
    with pytest.raises(DataError, match="lacks the test cases d.*--cases"):
        unseen(first, of=_Cohort("abcef"))
    assert unseen(first, of=_Cohort("xyz")) == "xyz"
    with pytest.raises(ConfigError, match="each of the 3 cases.*or by what it was started from"):
        unseen(description(cohort, "ab", "", "c", before_train="c"), of=_Cohort("abc"))


def test_what_a_start_has_seen_is_refused_by_role():
    cohort = _Cohort("abcdef")

    class Settings:
        init, init_seen = "model", False

    def overlap(start, *parts):
        split = Split(*map(tuple, parts))
        return overlap_of_start(Settings, cohort, split, carried_on(start), cohort.fold_of)

    start = description(cohort, "ab", "c", "d", before_train="e")
    assert overlap(start, "abcef", "", "d") == {}
    assert overlap(start, "abef", "c", "d") == {}  # chosen on again
    with pytest.raises(ConfigError, match=r"1 of the test fold \(c\)"):
        overlap(start, "abdef", "", "c")
    assert overlap(start, "abdef", "c", "c") == {}  # selection paper: as it says
    with pytest.raises(ConfigError, match=r"2 of the test fold \(a, b\); 1 of the selection fold"):
        overlap(start, "cdf", "e", "ab")
    Settings.init_seen = True
    assert overlap(start, "cdf", "e", "ab") == {"test": ["a", "b"], "selection": ["e"]}


def test_runs_of_before_there_were_digests_are_compared_by_their_split(tmp_path):
    now = {"split": {"train": ["a"], "selection": [], "test": ["b"]}, "cases": {"a": {}, "b": {}}}
    check_same({"split": now["split"]}, now, tmp_path)
    with pytest.raises(ConfigError, match="train: b then, and not now"):
        check_same({"split": {"train": ["a", "b"], "selection": [], "test": []}}, now, tmp_path)
