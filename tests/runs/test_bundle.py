"""A model as one file: what it holds, what it does not, and that a changed byte is noticed."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from safetensors import numpy as safetensors

import isanet_jax as isa
from isanet_jax.cases.case import read_case
from isanet_jax.cli import bundle as command
from isanet_jax.cli import evaluate, predict, tune
from isanet_jax.errors import CheckpointError, ConfigError, DataError
from isanet_jax.files import write_json
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.runs.bundle import read_bundle, write_bundle
from isanet_jax.runs.description import check_model


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


def change_network(**values):
    def change(members):
        content = json.loads(members["model.json"])
        content["networks"][0] |= values
        members["model.json"] = json.dumps(content).encode()

    return change


def change_preparation(**values):
    def change(members):
        content = json.loads(members["model.json"])
        content["networks"][0]["preparation"] |= values
        members["model.json"] = json.dumps(content).encode()

    return change


def change_setting(name, value):
    def change(members):
        content = json.loads(members["model.json"])
        section, key = name.split(".")
        content["networks"][0]["config"][section][key] = value
        members["model.json"] = json.dumps(content).encode()

    return change


def change_weights(function):
    def change(members):
        import hashlib

        arrays = safetensors.load(members["weights0.safetensors"])
        made = safetensors.save({name: function(array) for name, array in arrays.items()})
        members["weights0.safetensors"] = made
        change_network(sha256=hashlib.sha256(made).hexdigest())(members)

    return change


def one_file_for_many(members):
    content = json.loads(members["model.json"])
    content["networks"] *= 150
    members["model.json"] = json.dumps(content).encode()


def change_width(members):
    content = json.loads(members["model.json"])
    content["networks"][0]["config"]["model"]["width"] = 4096
    members["model.json"] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("CARD.md"), "CARD.md"),
        (lambda members: members.update({"weights0.safetensors": b"0" * 99}), "were changed"),
        (change_json(format=2), "is of a newer version \\(format 2\\) than this one.*: update"),
        (change_json(program="isanet_jax 9.1.0", more=1), "newer version \\(isanet_jax 9.1.0\\)"),
        (change_json(more=1), "'more' is unknown"),
        (change_json(networks=[]), "describes no network"),
        (change_json(networks=[{}]), "networks: 0: config is lacking"),
        (change_network(weights="../x"), "weights: it must be the name of weights"),
        (change_network(more=1), "'more' is unknown"),
        (change_setting("model.levels", 1e9), "model.levels is 1000000000.0; it must be"),
        (change_setting("model.more", 1), "there is no setting model.more"),
        (change_setting("model.width", None), "model.width is None"),
        (change_setting("data.spacing_mm", float("nan")), "the number NaN"),
        (change_setting("data.size", 24), "data.size is 24 and its cases' 16"),
        (change_setting("data.classes", ["other"]), "its cases have no class other"),
        (change_setting("data.images", ["pet", "t9"]), "its images are"),
        (change_preparation(spacing_mm="x"), "preparation: spacing_mm: it must be a number"),
        (change_preparation(spacing_mm=3.0), "data.spacing_mm is 12.0 and its cases' 3.0"),
        (change_preparation(classes={"<b>": [1]}), "it must be the name of a class"),
        (change_preparation(images={"ct": "xray"}), "images: ct: choose one of"),
        (
            change_network(ct_windows=[[0, 0, 0, 0]]),
            r"it must be \[low, high, subtracted, above 0\]",
        ),
        (change_network(ct_windows=[[-100.0, 100.0, 0.0, 1.0]]), "and data.ct_window wide"),
        (change_network(seen={"spacing_mm": 5}), "seen: field_mm is lacking"),
        (change_network(progress={"best_dsc": "x", "best_epoch": 1}), "best_dsc: it must be"),
        (change_network(identities=[]), "identities: it must be an object"),
        (change_json(rules={"tumour": {"threshold": 2.0}}), "threshold: it must be"),
        (change_json(rules={"tumour": {"threshold": 0}}), "threshold: it must be above 0"),
        (change_json(rules={"tumour": {"threshold": float("inf")}}), "the number Infinity"),
        (change_json(rules={"tumour": {"smallest_ml": -1}}), "smallest_ml: it must be"),
        (change_json(rules={"tumour": {"largest_only": 1}}), "largest_only: it must be True or"),
        (change_json(rules={"\x1b[31m": {}}), "it must be the name of a class"),
        (lambda m: m.update({"model.json": b"[" * 10**5}), "not a model"),
        (one_file_for_many, "two of its networks name the same weights"),
        (change_weights(lambda x: x.astype(np.int8)), "are not those of the network"),
        (change_weights(lambda x: x > 0), "are not those of the network"),
        (change_weights(lambda x: x * np.float32("nan")), "its weights are not finite"),
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


LIES = (
    *(float("nan"), float("inf"), -1, 0, 2, 1e9, None, True, "x", "9" * 50, "\x1b[31m<script>"),
    *([], {}, [[1]], [1e9] * 3),
)


def places(value, path=()):
    """Every place in JSON: keys and indices that lead there."""
    yield path
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value[:2]):
            yield from places(one, (*path, key))


def changed_at(value, path, lie):
    if not path:
        return lie
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed_at(copied[path[0]], path[1:], lie)
    return copied


def test_every_lie_at_every_place_is_refused_in_a_line_or_can_be_meant(model):
    """Whatever stands anywhere, there is no other error than the one that is said."""
    with zipfile.ZipFile(model) as archive:
        content = json.loads(archive.read("model.json"))
    content["rules"] = {"tumour": {"threshold": 0.5, "smallest_ml": 0.0, "largest_only": False}}
    check_model(content)
    refused, let_through = [], []
    for path in places(content):
        for lie in LIES:
            try:
                check_model(changed_at(content, path, lie))
                let_through.append(path)
            except ValueError as error:
                refused.append(str(error))
    assert not [text for text in refused if "\n" in text]
    # What is let through is a number in its range, or a free text, such as a folder.
    assert len(refused) > 12 * len(let_through)
    containers = {"config", "preparation", "progress"}
    assert not {path[-1] for path in let_through if path} & containers


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "folder.isanet"])
def test_what_never_ends_is_no_model(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.isanet").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_bundle(tmp_path / path)


def test_text_of_others_is_text_in_the_card(trained, tmp_path):
    """A metrics.json that somebody has made beside a run."""
    summary = {"n_cases": 3, "dsc": {"mean": 0.5, "median": 0.5}, "lesion_f1": {"mean": 0.5}}
    content = {"summary": summary, "grid": "x\n\n# A heading | <script>alert(1)</script>",
               "runs": [{"selection": "`x` [a](b)"}]}  # fmt: skip
    networks = Predictor([trained]).networks
    path = write_bundle(networks, tmp_path / "m.isanet", metrics=[content])
    card = read_bundle(path).card
    assert "<script>" not in card
    assert r"x \# A heading \| &lt;script&gt;alert(1)&lt;/script&gt;" in card
    assert r"\`x\` \[a\](b)" in card
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "eval").mkdir(exist_ok=True)
    (tmp_path / "run" / "eval" / "metrics.json").write_text('{"summary": {"n_cases": "x"}}')
    with pytest.raises(DataError, match=r"metrics.json: is damaged .*isanet eval --overwrite"):
        command.main(["--workdir", str(tmp_path / "run"), "--output", str(tmp_path / "n.isanet")])
