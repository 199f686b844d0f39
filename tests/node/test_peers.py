"""The node between dcmtk's storescu and Orthanc: twenty studies, three at a time, and kills."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isanet_jax.cli import bundle
from isanet_jax.files import write_json
from tests.dicom import make_dicom

pytest.importorskip("pynetdicom")
ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
if ORTHANC is None or shutil.which("storescu") is None:
    pytest.skip("needs Orthanc and dcmtk (apt install orthanc dcmtk)", allow_module_level=True)

from isanet_jax.node.sender import NotSent, Web  # noqa: E402
from tests.node.test_node import free_port  # noqa: E402

STUDIES, KILLS = 20, 5
WEB = next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so"), None)


@pytest.fixture
def orthanc(tmp_path):
    """Its REST interface, as a function, its DICOM port, and its studies' address on the web.

    It notes every instance that it gets.
    """
    rest, dicom = free_port(), free_port()
    script = tmp_path / "count.lua"
    script.write_text(
        "function ReceivedInstanceFilter(dicom, origin, info)\n"
        f"  local file = io.open('{tmp_path}/stores.txt', 'a')\n"
        "  file:write(dicom.SOPInstanceUID .. '\\n')\n  file:close()\n  return true\nend\n"
    )
    settings = {
        "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": rest, "DicomPort": dicom, "DicomAet": "PACS", "AuthenticationEnabled": False,
        "DicomModalities": {"isanet": ["ISANET", "127.0.0.1", 1]}, "DicomAlwaysAllowFind": True,
        "LuaScripts": [str(script)], "Plugins": [str(WEB)] if WEB else [],
        "DicomWeb": {"Enable": True},
    }  # fmt: skip
    write_json(tmp_path / "orthanc.json", settings)
    with open(tmp_path / "orthanc.log", "wb") as log:
        command = [ORTHANC, str(tmp_path / "orthanc.json")]
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}{path}") as answer:
            return json.loads(answer.read())

    for _ in range(100):
        try:
            ask("/system")
            break
        except OSError:
            time.sleep(0.1)
    yield ask, dicom, f"http://127.0.0.1:{rest}/dicom-web/studies"
    process.terminate()
    process.wait(20)


class Node:
    """`isanet node` as a process, to be killed and started again."""

    def __init__(self, folder, model, *to):
        self.port, self.page, self.log = free_port(), free_port(), folder / "node.log"
        program = "import sys; from isanet_jax.cli import start; start('node')"
        self.command = [
            *(sys.executable, "-c", program, "--model", str(model), "--folder", str(folder / "q")),
            *("--port", str(self.port), "--accept", "SCANNER", *to),
            *("--quiet-s", "2", "--status-port", str(self.page), "--keep-identity"),
        ]
        self.start()

    def start(self):
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=env)
        for _ in range(1200):
            try:
                return self.state()
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def state(self):
        url = f"http://127.0.0.1:{self.page}/status.json"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read())


def store(node, folder):
    """Sends a study's CT and PET until all of it was taken, as a scanner's queue does."""
    files = [str(path) for kind in "ab" for path in sorted((folder / kind).iterdir())]
    command = ["storescu", "-aet", "SCANNER", "-aec", "ISANET", "127.0.0.1", str(node.port)]
    for _ in range(200):
        if subprocess.run([*command, *files], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError("never taken")


def finding(trained, folder):
    """A model that finds something in noise."""
    rules, model = folder / "rules.json", folder / "model.isanet"
    write_json(rules, {"classes": {"tumour": {"threshold": 1e-6}}})
    bundle.main(["--workdir", str(trained), "--output", str(model), "--rules", str(rules)])
    return model


def test_twenty_studies_three_at_a_time_and_kills(trained, orthanc, tmp_path):
    ask, pacs, _ = orthanc
    model = finding(trained, tmp_path)
    folders = []
    for number in range(STUDIES):
        shared = make_dicom.study(patient=f"DOE^{number}", patient_id=f"P{number}")
        make_dicom.write_patient(tmp_path / "scans" / str(number), shared)
        folders.append((tmp_path / "scans" / str(number), shared["StudyInstanceUID"]))
    node = Node(tmp_path, model, "--to", f"127.0.0.1:{pacs}:PACS")
    choose = random.Random(0)  # noqa: S311 - of times
    try:
        with ThreadPoolExecutor(3) as pool:
            sending = [pool.submit(store, node, folder) for folder, _ in folders]
            sending.append(pool.submit(store, node, folders[0][0]))  # one of them twice
            for _ in range(KILLS):
                time.sleep(choose.uniform(0.5, 4))
                node.kill()
                node.start()
            for one in sending:
                one.result()
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and node.state()["counts"]["done"] < STUDIES:
            time.sleep(0.5)
        state = node.state()
    finally:
        node.kill()
    log = node.log.read_text()
    assert state["counts"] == {"received": 0, "waiting": 0, "ready": 0, "failed": 0,
                               "done": STUDIES}, log  # fmt: skip
    assert "DOE" not in log
    # Each study has one SEG and one RTSTRUCT there, and no instance came twice.
    stores = (tmp_path / "stores.txt").read_text().split()
    assert len(stores) == len(set(stores)) == 2 * STUDIES
    found = {}
    for series in ask("/series?expand"):
        study = ask(f"/studies/{series['ParentStudy']}")
        uid = study["MainDicomTags"]["StudyInstanceUID"]
        found.setdefault(uid, []).append(series["MainDicomTags"]["Modality"])
        assert re.fullmatch(r"P\d+", study["PatientMainDicomTags"]["PatientID"])
    assert {uid: sorted(kinds) for uid, kinds in found.items()} == {
        uid: ["RTSTRUCT", "SEG"] for _, uid in folders
    }


@pytest.mark.skipif(WEB is None, reason="needs Orthanc's DICOMweb (apt install orthanc-dicomweb)")
def test_results_to_a_server_on_the_web(trained, orthanc, tmp_path):
    ask, _, url = orthanc
    shared = make_dicom.study(patient="DOE^JANE", patient_id="P1")
    make_dicom.write_patient(tmp_path / "scan", shared)
    node = Node(tmp_path, finding(trained, tmp_path), "--stow", url)
    try:
        store(node, tmp_path / "scan")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not node.state()["counts"]["done"]:
            time.sleep(0.5)
    finally:
        node.kill()
    assert sorted(s["MainDicomTags"]["Modality"] for s in ask("/series?expand")) == [
        "RTSTRUCT", "SEG",
    ], node.log.read_text()  # fmt: skip
    (study,) = ask("/studies?expand")
    assert study["MainDicomTags"]["StudyInstanceUID"] == shared["StudyInstanceUID"]
    # What it says of what it has not, and has, and of what it cannot read.
    path, web = sorted((tmp_path / "scan" / "a").iterdir())[0], Web(url)
    assert not web.has(path)
    web.send(path)
    assert web.has(path)
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(path.read_bytes()[200:])
    with pytest.raises(NotSent, match="400") as caught:
        web.send(damaged)
    assert caught.value.final
