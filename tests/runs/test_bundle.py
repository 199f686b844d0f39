"""A model as one file: what it holds, what it does not, and that a changed byte is noticed."""

import io
import json
import zipfile

import numpy as np
import pytest

import isanet_jax as isa
from isanet_jax.cases.case import read_case
from isanet_jax.cli import bundle as command
from isanet_jax.cli import evaluate, predict, tune
from isanet_jax.errors import CheckpointError, ConfigError, DataError
from isanet_jax.files import write_json
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.bundle import read_bundle, write_bundle


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("model") / "model.isanet"
    command.main(["--workdir", str(trained), "--output", str(output), "--licence", "CC BY 4.0"])
    return output


def probability(predictor, cohort):
    return predictor.probabilities([read_case(cohort.path(sorted(cohort.cases)[0]))])[0]


def test_a_model_predicts_as_its_run(model, trained, trained_again, cohort, tmp_path):
    of_run, of_model = Predictor([trained]), Predictor([model])
    np.testing.assert_array_equal(probability(of_model, cohort), probability(of_run, cohort))
    assert of_model.settings == of_run.settings
    assert of_model.seen == of_run.seen
    both = write_bundle(Predictor([model, trained_again]).networks, tmp_path / "two.isanet")
    ensemble = Predictor([both])
    assert len(ensemble.descriptions) == 2
    np.testing.assert_allclose(
        probability(ensemble, cohort),
        probability(Predictor([trained, trained_again]), cohort),
        atol=1e-7,
    )
    assert isa.load(model).config["model"] == of_run.descriptions[0]["config"]["model"]


def test_it_names_no_case_and_no_folder(model, cohort):
    with zipfile.ZipFile(model) as archive:
        text = archive.read("model.json").decode()
        card = archive.read("CARD.md").decode()
    for name in (*cohort.cases, str(cohort.folder)):
        assert name not in text + card
    assert "CC BY 4.0" in card
    assert f"Networks: 1 × {json.loads(text)['networks'][0]['config']['model']['name']}." in card
    counts = json.loads(text)["networks"][0]["counts"]
    assert f"| {counts['train']} cases | {counts['selection']} cases |" in card


def test_the_cases_it_has_learnt_from_are_known_by_content(model, trained, cohort, tmp_path):
    test = Predictor([trained]).descriptions[0]["split"]["test"]
    arguments = ["--workdir", str(model), "--cases", str(cohort.folder)]
    evaluate.main([*arguments, "--output", str(tmp_path / "eval")])
    scored = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert set(scored["cases"]) == set(test)
    (of_model,) = scored["runs"]
    evaluate.main(["--workdir", str(trained), "--output", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"] == [of_model]
    with pytest.raises(ConfigError, match="has no cases of its own; name prepared ones"):
        evaluate.main([*arguments[:2], "--output", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="give --output"):
        evaluate.main(arguments)
    with pytest.raises(ConfigError, match="put them into it with isanet bundle --rules"):
        tune.main([*arguments, "--output", str(tmp_path / "rules.json")])


def test_its_rules_are_applied(trained, cohort, tmp_path):
    write_json(tmp_path / "rules.json", {"classes": {"tumour": {"threshold": 0.9}}})
    output = tmp_path / "model.isanet"
    arguments = ["--workdir", str(trained), "--output", str(output)]
    command.main([*arguments, "--rules", str(tmp_path / "rules.json")])
    assert Predictor([output]).rules["tumour"].threshold == 0.9
    with pytest.raises(DataError, match="exists already"):
        command.main(arguments)
    with pytest.raises(ConfigError, match="call it NAME.isanet"):
        command.main([*arguments[:3], str(tmp_path / "model.zip")])
    scan = cohort.folder / "scans" / "phantom_000"
    predict.main(["--workdir", str(output), "--ct", str(scan / "ct.nii.gz"), "--pet",
                  str(scan / "pet.nii.gz"), "--output", str(tmp_path / "mask.nii.gz")])  # fmt: skip
    assert (tmp_path / "mask.nii.gz").exists()


def test_any_changed_byte_is_noticed(model, tmp_path):
    content = model.read_bytes()
    damaged = tmp_path / "damaged.isanet"
    generator = np.random.default_rng(0)
    places = {0, 4, len(content) - 1, len(content) - 65, *generator.integers(0, len(content), 40)}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        damaged.write_bytes(changed)
        with pytest.raises(CheckpointError, match="not a model, or is a damaged one"):
            read_bundle(damaged)
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="not a model, or is a damaged one"):
            read_bundle(damaged)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_bundle(tmp_path / "absent.isanet")


def remade(model, path, change, compression=zipfile.ZIP_STORED):
    """A file whose digest is right, with other content: what someone might make on purpose."""
    import hashlib

    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(content[:-2] + len(digest).to_bytes(2, "little") + digest)
    return path


def change_json(**values):
    def change(members):
        members["model.json"] = json.dumps(json.loads(members["model.json"]) | values).encode()

    return change


def change_width(members):
    content = json.loads(members["model.json"])
    content["networks"][0]["config"]["model"]["width"] = 4096
    members["model.json"] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("CARD.md"), "CARD.md"),
        (lambda members: members.update({"weights0.safetensors": b"0" * 99}), "were changed"),
        (change_json(format=2), "format 2; this program reads 1"),
        (change_json(networks=[]), "describes no network"),
        (change_json(networks=[{"weights": "../x"}]), "../x"),
        (change_json(networks="x"), "not a model"),
        (change_width, "are not those of the network that its settings describe"),
    ],
)
def test_what_was_made_to_look_like_a_model_is_refused(model, tmp_path, change, message):
    path = remade(model, tmp_path / "made.isanet", change)
    with pytest.raises(CheckpointError, match=message):
        Predictor([path])


def test_nothing_is_unpacked_that_is_larger_than_the_file(model, tmp_path):
    def grow(members):
        members["weights0.safetensors"] = bytes(50_000_000)

    path = remade(model, tmp_path / "bomb.isanet", grow, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_bundle(path)
