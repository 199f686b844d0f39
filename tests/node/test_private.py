"""Nothing of a patient leaves the node: names of files, lines, records, pages, outputs."""

import hashlib
import json
import logging
import stat
import warnings

import pydicom
import pytest

from isanet_jax.cli import node
from isanet_jax.errors import ConfigError
from tests.dicom import make_dicom

pytest.importorskip("pynetdicom")
pytest.importorskip("prometheus_client")

from isanet_jax.node.private import (
    Digests,
    identity_in,
    withhold,
    withhold_of_libraries,
)
from isanet_jax.node.queue import Queue, look_up

UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def image(tmp_path):
    make_dicom.write_patient(tmp_path / "study")
    path = next((tmp_path / "study" / "a").iterdir())
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.PatientID = "Grue\u00dfner^Anna Maria", "X-0815"
    dataset.AccessionNumber = "A 4711"
    dataset.save_as(path)
    return path


def test_digests_need_the_folder_s_key(tmp_path):
    one, other = (Digests(tmp_path / n, is_new=True) for n in "ab" if not (tmp_path / n).mkdir())
    assert one.of(UID) == Digests(tmp_path / "a").of(UID) != other.of(UID)
    assert stat.S_IMODE((tmp_path / "a" / "secret").stat().st_mode) == 0o600
    # What an earlier version began goes on under the names that it gave.
    (tmp_path / "old" / "received").mkdir(parents=True)
    queue = Queue(tmp_path / "old", most_bytes=1, least_free=0)
    assert queue.digests.of("1.2.3") == hashlib.sha256(b"1.2.3").hexdigest()[:24]
    assert not (tmp_path / "old" / "secret").exists()


def test_lines_are_without_identity(image):
    identity = identity_in(image)
    text = f"anna MARIA gruessner, Grue\u00dfner, Annabel, X-0815 (4711) of {UID}, 10.0.0.5, 3.11.2"
    assert withhold(text, identity) == (
        "(withheld) (withheld) gruessner, (withheld), Annabel, (withheld) ((withheld)) of (UID), "
        "10.0.0.5, 3.11.2"
    )


def test_libraries_are_told_of_by_their_place_alone():
    said = []
    end = withhold_of_libraries(said.append)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning("Doe^John is no name", UserWarning, "/x/pydicom/valuerep.py", 440)
        logging.getLogger("pydicom").warning("Doe^John")
        logging.getLogger("pynetdicom.assoc").error("Doe^John")
        for _ in range(3):
            logging.getLogger("highdicom.seg").warning("Doe^John")
    finally:
        end()
    assert len(said) == 4
    assert said[0] == "UserWarning of a library (pydicom/valuerep.py:440); its text is withheld"
    assert "Doe" not in "".join(said)


def test_who_has_a_number_finds_its_study(tmp_path, image, capsys):
    queue = Queue(tmp_path / "q", most_bytes=2**30, least_free=0)
    assert stat.S_IMODE(queue.folder.stat().st_mode) == 0o700
    dataset = pydicom.dcmread(image)
    study = str(dataset.StudyInstanceUID)
    key = queue.add(study, str(dataset.SOPInstanceUID), image)
    assert [found[:2] for found in look_up(queue.folder, "A 4711")] == [("received", key)]
    queue.settle(0)
    results = queue.new_results(key)
    queue.ready(key, results, {})
    for number in ("A 4711", "X-0815", study):
        found = {state for state, found, _ in look_up(queue.folder, number) if found == key}
        assert found == {"ready", "kept"}
    queue.done(key)
    for folder in queue.folder.rglob("*"):
        assert "4711" not in folder.name
        if folder.suffix == ".json":
            assert not {"4711", "X-0815", study} & set(folder.read_text().split('"'))
    assert not any("asked" in one for one in queue.state()["done"])
    assert study not in json.dumps(queue.state())
    node.main(["--folder", str(queue.folder), "--look-up", "A 4711"])
    assert f"done {key}: 20" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing in"):
        node.main(["--folder", str(queue.folder), "--look-up", "A 4712"])
