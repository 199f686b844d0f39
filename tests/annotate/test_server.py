"""The server with MONAI Label's own client, as it is published, and with what strangers send."""

import importlib.util
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest

from isanet_jax.annotate.desk import Desk
from isanet_jax.annotate.store import Labels
from isanet_jax.cli import label as cli_label
from isanet_jax.errors import ConfigError
from isanet_jax.nifti import read_volume
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.rules import Rules
from tests.dicom import make_dicom

uvicorn = pytest.importorskip("uvicorn", reason="needs .[label]")
pytest.importorskip("python_multipart", reason="needs .[label]")

from isanet_jax.annotate import guard, learn, server  # noqa: E402


def client_module():
    """monailabel.client alone: the package imports MONAI and torch."""
    pytest.importorskip("requests", reason="needs requests, for MONAI Label's client")
    pytest.importorskip("cgi", reason="MONAI Label's client needs Python up to 3.12")
    spec = importlib.util.find_spec("monailabel")
    if spec is None:
        pytest.skip("needs MONAI Label's client: pip install --no-deps monailabel")
    path = Path(next(iter(spec.submodule_search_locations))) / "client" / "client.py"
    spec = importlib.util.spec_from_file_location("monailabel_client", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Running:
    """A server in a thread."""

    def __init__(self, desk, **how):
        self.server = server.Server(desk, **how)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        config = uvicorn.Config(self.server.app, port=self.port, log_level="error")
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        while not self.uvicorn.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self):
        self.uvicorn.should_exit = True
        self.thread.join()
        self.server.close()

    def ask(self, path, *, method="GET", body=None, **headers):
        """(status, JSON or text)."""
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def predictor(trained):
    one = Predictor([trained])
    one.rules = {"tumour": Rules(threshold=1e-6)}
    return one


@pytest.fixture
def running(predictor, trained, cohort_folder, tmp_path):
    desk = Desk([cohort_folder / "scans"], tmp_path / "desk", predictor)
    one = Running(desk, model=[trained])
    yield one
    one.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_clicks_are_of_the_class_that_a_client_names(cohort_folder, tmp_path):
    desk = Desk([cohort_folder / "scans"], tmp_path / "desk", classes={"soft": (1,), "bone": (2,)})
    one, module = Running(desk), client_module()
    try:
        client, case = (
            module.MONAILabelClient(one.url, str(tmp_path), "reader-1"),
            next(iter(desk.scans)),
        )
        pet = desk.images(case).volumes["pet"].data
        params = {"foreground": [[int(n) for n in np.unravel_index(pet.argmax(), pet.shape)]]}
        for label, value in ((None, 1), ("bone", 2)):
            path, _ = client.infer("threshold", f"{case}.pet", params | {"label": label})
            assert set(np.unique(nibabel.load(path).dataobj)) == {0, value}
        # Of what is there, the other class's is not taken for it.
        kept, _ = client.infer(
            "threshold", f"{case}.pet", params | {"label": "soft"}, label_in=path
        )
        assert set(np.unique(nibabel.load(kept).dataobj)) == {0, 1}
        with pytest.raises(module.MONAILabelClientException) as refused:
            client.infer("threshold", case, params | {"label": "liver"})
        assert "expected one of soft, bone" in str(refused.value)
    finally:
        one.close()


# Of the client, which leaves what it sends open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_call_of_monai_label_s_client(running, cohort_folder, tmp_path):
    module = client_module()
    client = module.MONAILabelClient(running.url, str(tmp_path), "reader-1")
    assert client.auth_enabled() is False
    info = client.info()
    assert info["labels"] == ["tumour"]
    assert info["models"]["isanet"]["type"] == "segmentation"
    assert info["models"]["isanet_clicks"]["type"] == "deepgrow"
    assert info["models"]["threshold"]["type"] == "deepgrow"
    assert set(info["strategies"]) == {"first", "random", "uncertain", "unlike"}
    count = info["datastore"]["total"]
    assert info["datastore"]["completed"] == 0
    cases = sorted(running.server.desk.scans)
    assert client.next_sample("first", {})["id"] == cases[0]
    assert client.next_sample("random", {"seed": 1})["id"] in cases
    sure = client.next_sample("uncertain", {})
    assert sure["score"] > 0
    case = cases[0]
    scan = cohort_folder / "scans" / case
    ct = read_volume(scan / "ct.nii.gz")

    # The network's mask, on the grid of what is shown.
    path, params = client.infer("isanet", case, {})
    mask = nibabel.load(path)
    assert params["label_names"] == {"tumour": 1}
    np.testing.assert_allclose(mask.affine, ct.affine, atol=1e-4)
    assert set(np.unique(mask.dataobj)) <= {0, 1}
    on_pet, _ = client.infer("isanet", f"{case}.pet", {})
    assert nibabel.load(on_pet).shape == nibabel.load(scan / "pet.nii.gz").shape

    # By the network's clicks, also of one that was trained without any.
    middle = [int(n) // 2 for n in ct.data.shape]
    params = {"foreground": [middle], "background": [], "label": "tumour"}
    path, _ = client.infer("isanet_clicks", case, params)
    clicked = np.asarray(nibabel.load(path).dataobj)
    assert clicked[tuple(middle)] == 1
    path, _ = client.infer("isanet_clicks", case, params | {"background": [middle]})
    assert not np.asarray(nibabel.load(path).dataobj)[tuple(middle)]

    # By clicks: the threshold around the hottest voxel, and away again.
    pet = nibabel.load(scan / "pet.nii.gz")
    values = np.asarray(pet.dataobj)
    hottest = [int(n) for n in np.unravel_index(values.argmax(), values.shape)]
    path, _ = client.infer("threshold", f"{case}.pet", {"foreground": [hottest], "radius_mm": 25})
    by_click = nibabel.load(path)
    found = np.asarray(by_click.dataobj) > 0
    assert found[tuple(hottest)]
    assert values[found].min() > 0.2 * values.max()
    path, _ = client.infer("threshold", f"{case}.pet", {"background": [hottest]}, label_in=path)
    assert not np.asarray(nibabel.load(path).dataobj)[tuple(hottest)]

    # Saved, twice: each version stays, with who and when.
    given = np.zeros(ct.data.shape, np.uint8)
    given[5:20, 5:20, 5:20] = 1
    nibabel.save(nibabel.Nifti1Image(given, ct.affine), tmp_path / "mine.nii.gz")
    saved = client.save_label(case, str(tmp_path / "mine.nii.gz"), "final", {"base": 0})
    assert (saved["number"], saved["who"], saved["tag"]) == (1, "reader-1", "final")
    given[5:8] = 0
    nibabel.save(nibabel.Nifti1Image(given, ct.affine), tmp_path / "mine.nii.gz")
    other = module.MONAILabelClient(running.url, str(tmp_path), "reader-2")
    first = other.save_label(case, str(tmp_path / "mine.nii.gz"), "final", {"base": 1})
    late = client.save_label(case, str(tmp_path / "mine.nii.gz"), "final", {"base": 1})
    assert (first["number"], late["number"]) == (2, 3)
    assert [one["who"] for one in late["beside"]] == ["reader-2"]
    back = nibabel.load(client.download_label(case, "final"))
    np.testing.assert_array_equal(np.asarray(back.dataobj), given)
    objects = client.datastore()["objects"]
    assert len(objects) == count
    assert objects[case]["labels"]["final"]["info"]["number"] == 3
    assert client.info()["datastore"]["completed"] == 1
    assert client.next_sample("first", {})["id"] == cases[1]
    assert client.next_sample("unlike", {})["id"] in cases[1:]

    # Images that are no case, for a while; of a case they are the server's own.
    with pytest.raises(module.MONAILabelClientException):
        client.upload_image(str(scan / "ct.nii.gz"), "new")
    session = client.create_session(str(scan / "ct.nii.gz"))["session_id"]
    assert client.get_session(session)["session_id"] == session
    client.remove_session(session)
    with pytest.raises(module.MONAILabelClientException):
        client.get_session(session)

    # Trained on from there, and stopped.
    with pytest.raises(module.MONAILabelClientException, match="final masks"):
        client.train_start("isanet", {"isanet": {"epochs": 1}})
    assert client.train_status()["status"] == "NONE"
    assert client.train_status(check_if_running=True) is False


def test_two_images_of_a_session_are_predicted(running, cohort_folder, tmp_path):
    requests = pytest.importorskip("requests")
    scan = cohort_folder / "scans" / "phantom_000"
    files = [
        ("files", (f"x_{n}.nii.gz", (scan / f"{n}.nii.gz").read_bytes())) for n in ("ct", "pet")
    ]
    opened = requests.put(f"{running.url}/session/", files=files, timeout=60).json()
    url = f"{running.url}/infer/isanet?image=&session_id={opened['session_id']}"
    found = requests.post(url, files={"params": (None, "{}")}, timeout=300)
    assert found.status_code == 200, found.text
    assert found.headers["content-type"].startswith("multipart/form-data")
    assert b".nii.gz" in found.content


def test_what_was_corrected_is_learnt(running, cohort_folder, tmp_path):
    desk = running.server.desk
    for case in sorted(desk.scans)[:3]:
        path = cohort_folder / "scans" / case / "label.nii.gz"
        desk.save(case, path, who="a reader")
    before = desk.predictor.maker.digest
    status, answer = running.ask(
        "/train/isanet", method="POST", body=json.dumps({"epochs": 1}).encode()
    )
    assert (status, answer["status"]) == (200, "RUNNING"), answer
    assert running.ask("/train/?check_if_running=true")[0] == 200
    deadline = time.monotonic() + 900
    while (answer := running.ask("/train/")[1])["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer["status"] == "DONE", answer
    assert desk.predictor.maker.digest != before
    assert desk.predictor.maker.name == "model"
    manifest = json.loads((desk.folder / "learn" / "cases" / "manifest.json").read_text())
    assert len(manifest["cases"]) == 3
    # Once more, with a mask more: the newest model counts.
    first, path = desk.predictor.maker.digest, running.server.model
    desk.save(
        sorted(desk.scans)[3], cohort_folder / "scans" / case / "label.nii.gz", who="a reader"
    )
    running.ask("/train/isanet", method="POST", body=json.dumps({"epochs": 1}).encode())
    while (answer := running.ask("/train/")[1])["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer["status"] == "DONE", answer
    assert desk.predictor.maker.digest != first
    assert running.server.model == path
    # It is not read again at each look.
    taken = desk.predictor
    running.ask("/train/")
    assert desk.predictor is taken
    # Stopped: what there was stays.
    running.ask("/train/isanet", method="POST", body=json.dumps({"epochs": 500}).encode())
    running.ask("/train/", method="DELETE")
    while (answer := running.ask("/train/")[1])["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer["status"] == "STOPPED"


@pytest.mark.parametrize(
    ("path", "method", "message"),
    [
        ("/datastore/image?image=../../etc/passwd", "GET", "no image"),
        ("/datastore/image?image=phantom_000/../../x", "GET", "no image"),
        ("/datastore/label?label=nobody&tag=final", "GET", "no image"),
        ("/datastore/label?label=phantom_000&tag=final", "GET", "has no such mask"),
        ("/session/0000", "GET", "no such session"),
        ("/activelearning/best", "POST", "no strategy"),
        ("/infer/other?image=phantom_000", "POST", "no model"),
    ],
)
def test_what_cannot_be_is_a_line(running, path, method, message):
    status, answer = running.ask(path, method=method, body=b"" if method == "POST" else None)
    assert status == 400, answer
    assert message in answer["detail"]
    assert "\n" not in answer["detail"]


def test_masks_that_fit_nothing_are_refused(running, cohort_folder, tmp_path):
    requests = pytest.importorskip("requests")
    ct = read_volume(cohort_folder / "scans" / "phantom_000" / "ct.nii.gz")
    url = f"{running.url}/datastore/label?image=phantom_000&tag=final"

    def put(data, affine, name="label"):
        nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "m.nii.gz")
        content = (tmp_path / "m.nii.gz").read_bytes()
        return requests.put(url, files={name: ("m.nii.gz", content)}, timeout=60)

    small = np.zeros((4, 4, 4), np.uint8)
    answer = put(small, ct.affine)
    assert answer.status_code == 400
    assert "the grid of one of its images" in answer.json()["detail"]
    other = np.full(ct.data.shape, 7, np.uint8)
    assert "label values 7" in put(other, ct.affine).json()["detail"]
    assert "no mask" in put(other, ct.affine, "file").json()["detail"]
    content = {"label": ("m.nii.gz", b"no image")}
    assert requests.put(url, files=content, timeout=60).status_code == 400
    assert not Labels(running.server.desk.labels.folder).cases()


def test_strangers(predictor, cohort_folder, tmp_path, monkeypatch):
    desk = Desk([cohort_folder / "scans"], tmp_path / "desk", predictor)
    one = Running(desk, token="a secret of many letters")  # noqa: S106
    try:
        assert one.ask("/info/")[0] == 401
        assert one.ask("/auth/") == (200, {"enabled": True})
        assert one.ask("/info/", Authorization="Bearer wrong")[0] == 401
        known = {"Authorization": "Bearer a secret of many letters"}
        assert one.ask("/info/", **known)[0] == 200
        assert one.ask("/info/", Host="imaging.example:8000", **known)[0] == 200
        assert one.ask("/info/", Host="imaging.example:8000")[0] == 401
        # A browser has it from the page's address, and keeps it.
        assert one.ask("/?token=wrong")[0] == 401
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{one.url}/?token=a+secret+of+many+letters") as answer:
            assert answer.url == f"{one.url}/"
            assert "Annotation" in answer.read().decode()
        with opener.open(f"{one.url}/info/") as answer:
            assert answer.status == 200
        elsewhere = urllib.request.Request(f"{one.url}/info/", headers={"Origin": "http://e.vil"})  # noqa: S310
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(elsewhere)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        body = b"username=x&password=wrong"
        assert one.ask("/auth/token", method="POST", body=body, **form)[0] == 401
        body = b"username=x&password=a+secret+of+many+letters"
        status, token = one.ask("/auth/token", method="POST", body=body, **form)
        assert (status, token["token_type"]) == (200, "bearer")
    finally:
        one.close()
    one = Running(desk)
    try:
        assert one.ask("/info/", Host="evil.example")[0] == 421
        assert one.ask("/info/", Origin="http://evil.example")[0] == 403
        assert one.ask("/info/", Origin=one.url)[0] == 200
        monkeypatch.setattr(guard, "MOST_BYTES", 1000)
        status, _ = one.ask("/activelearning/first", method="POST", body=b" " * 2000)
        assert status == 413
    finally:
        one.close()


def test_outside_loopback_only_with_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv(cli_label.TOKEN, raising=False)
    always = ["--cases", str(tmp_path), "-o", str(tmp_path / "o")]
    with pytest.raises(ConfigError, match="whoever reaches it"):
        cli_label.main([*always, "--host", "0.0.0.0"])  # noqa: S104
    monkeypatch.setenv(cli_label.TOKEN, "short")
    with pytest.raises(ConfigError, match="too short"):
        cli_label.main([*always, "--host", "0.0.0.0"])  # noqa: S104
    assert not (tmp_path / "o").exists()


def test_the_least_that_is_learnt_from(predictor, cohort_folder, tmp_path):
    desk = Desk([cohort_folder / "scans"], tmp_path / "desk", predictor)
    with pytest.raises(ConfigError, match="0 final masks; give 2"):
        learn.write_table(desk)


def form(params, **files):
    """(body, its content type) as a browser sends a form."""
    parts = [f'name="params"\r\n\r\n{json.dumps(params)}'.encode()]
    parts += [
        f'name="{name}"; filename="{name}.bin"\r\n\r\n'.encode() + content
        for name, content in files.items()
    ]
    body = b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    return body + b"--x--\r\n", "multipart/form-data; boundary=x"


def test_a_viewer_in_a_browser_asks_by_series_for_voxels_alone(predictor, tmp_path):
    """As OHIF does, which has its images from elsewhere."""
    shared = make_dicom.study(patient_id="P1")
    make_dicom.write_patient(tmp_path / "in", shared)
    desk = Desk([tmp_path / "in"], tmp_path / "desk", predictor)
    (case,) = desk.scans
    study = desk.scans[case].study
    viewer = "http://localhost:3000"
    one = Running(desk, origins=[viewer])

    def ask(path, *, method="POST", params=(), **files):
        body, kind = form(dict(params), **files)
        headers = {"Origin": viewer, "Content-Type": kind}
        request = urllib.request.Request(one.url + path, body, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.headers, answer.read()

    try:
        _, sample = one.ask("/activelearning/first", method="POST", body=b"{}", Origin=viewer)
        assert sample["SeriesInstanceUID"] == study.images["ct"].uid
        assert sample["StudyInstanceUID"] == shared["StudyInstanceUID"]
        for name, series in study.images.items():
            shown = desk.images(case).volumes[name]
            at = f"image={series.uid}&output="
            params = {"result_extension": ".nrrd", "result_compress": False}
            headers, content = ask(f"/infer/isanet?{at}image", params=params)
            assert headers["Access-Control-Allow-Origin"] == viewer
            head, _, voxels = content.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
            assert fields["sizes"] == " ".join(map(str, shown.data.shape))
            assert fields["type"] == "uint8"
            # In LPS, each axis a column of the affine.
            columns = [fields["space origin"], *fields["space directions"].split()]
            found = np.array([json.loads(f"[{c.strip('()')}]") for c in columns])
            expected = (np.diag([-1, -1, 1]) @ shown.affine[:3])[:, [3, 0, 1, 2]].T
            np.testing.assert_allclose(found, expected, atol=1e-5)
            mask = np.frombuffer(voxels, np.uint8).reshape(shown.data.shape, order="F")
            expected = one.server._on_grid_of(desk.infer(case), case, name).data
            np.testing.assert_array_equal(mask, expected)
            assert mask.any()
            assert json.loads(ask(f"/infer/isanet?{at}json")[1])["label_names"] == {"tumour": 1}
            # And back: the voxels alone, in one byte or two.
            drawn = np.zeros(shown.data.shape, np.uint8)
            drawn[1:4, 2:6, 1:3] = 1
            for kind in (np.uint8, "<u2"):
                given = drawn.astype(kind).tobytes(order="F")
                ask(f"/datastore/label?image={series.uid}", method="PUT", label=given)
                kept = read_volume(desk.labels.latest(case).path).data
                if name == "ct":
                    np.testing.assert_array_equal(kept, drawn)
                assert kept.any()
        for path, method, files, why in (
            ("/infer/isanet?image=1.2.3", "POST", {}, "no image '1.2.3'"),
            (f"/infer/isanet?image={case}&output=dicom", "POST", {}, "wanted|expected"),
            (f"/datastore/label?image={case}", "PUT", {"label": b"abc"}, "a mask of 3 bytes"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(path, method=method, **files)
            assert re.search(why, refused.value.read().decode())
        # A browser asks first, without a token; another page is told no.
        for origin, status in ((viewer, 200), ("http://localhost:4000", 400)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
            assert one.ask("/datastore/label", method="OPTIONS", **asked)[0] == status
    finally:
        one.close()


def test_an_origin_that_is_none_is_refused(tmp_path):
    for origin in ("*", "localhost:3000", "http://localhost:3000/viewer"):
        with pytest.raises(ConfigError, match="without a path"):
            cli_label.main(["--cases", str(tmp_path), "--origin", origin])
