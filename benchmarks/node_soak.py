"""The node with many studies, peers that fail at random, and kills in between.

    python -m benchmarks.node_soak --studies 500 --kills 20

Two peers get results: one refuses a tenth of them for now and breaks off a tenth; the other is
Orthanc, where it is installed. Studies come by dcmtk's storescu; of every fifth, by an Orthanc that
was given it. Prints the node's memory, descriptors and threads on the way, and at the end how
often each result came.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
from pynetdicom import AE, evt
from pynetdicom.sop_class import RTStructureSetStorage, SegmentationStorage

from isanet_jax.files import write_json
from tests.dicom import make_dicom

_ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
_SMALL = (
    *("--config.data.size=16", "--config.data.spacing_mm=12.0", "--config.data.phantoms=6"),
    *("--config.model.width=2", "--config.model.levels=2", "--config.train.epochs=1"),
)
_EACH_S = 10.0  # of a line on the way


def free_port():
    """One that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Moody:
    """A peer that refuses for now, or breaks off, a share of what comes; counts what it keeps."""

    def __init__(self, choose):
        self.port, self.got = free_port(), Counter()
        entity = AE(ae_title="MOODY")
        for uid in (SegmentationStorage, RTStructureSetStorage):
            entity.add_supported_context(uid)

        def take(event):
            dice = choose.random()
            if dice < 0.1:
                return 0xA700
            self.got[str(event.request.AffectedSOPInstanceUID)] += 1
            if dice < 0.2:  # it was kept, and the sender does not learn so
                event.assoc.abort()
            return 0x0000

        handlers = [(evt.EVT_C_STORE, take)]
        entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)


class Orthanc:
    """One as receiver and sender; notes every instance that it gets."""

    def __init__(self, folder, node_port):
        self.port, self.web, self.log = free_port(), free_port(), folder / "stores.txt"
        folder.mkdir()
        script = folder / "count.lua"
        script.write_text(
            "function ReceivedInstanceFilter(dicom, origin, info)\n"
            f"  local file = io.open('{self.log}', 'a')\n"
            "  file:write(dicom.Modality .. ' ' .. dicom.SOPInstanceUID .. '\\n')\n"
            "  file:close()\n  return true\nend\n"
        )
        settings = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "HttpPort": self.web, "DicomPort": self.port, "DicomAet": "SCANNER",
            "AuthenticationEnabled": False, "DicomAlwaysAllowFind": True,
            "DicomModalities": {"isanet": ["ISANET", "127.0.0.1", node_port]},
            "LuaScripts": [str(script)], "Plugins": [],
        }  # fmt: skip
        write_json(folder / "orthanc.json", settings)
        with open(folder / "orthanc.log", "wb") as log:
            command = [_ORTHANC, str(folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(self, path, body=None):
        """POSTs to its REST interface until it is taken."""
        url = f"http://127.0.0.1:{self.web}{path}"
        for _ in range(400):
            try:
                with urllib.request.urlopen(url, body) as answer:
                    return answer.read()
            except OSError:
                time.sleep(0.5)
        raise SystemExit(f"Orthanc does not take {path}")

    def send(self, files):
        """Sends a study's files to the node from here."""
        for file in files:
            self.ask("/instances", file.read_bytes())
        instances = [str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in files]
        found = [self.ask("/tools/lookup", uid.encode()).decode() for uid in instances]
        ids = [part.split('"ID" : "')[1].split('"')[0] for part in found]
        self.ask("/modalities/isanet/store", ("[" + ",".join(f'"{i}"' for i in ids) + "]").encode())


class Node:
    """The node as a process."""

    def __init__(self, folder, port, to):
        self.page, self.log = free_port(), folder / "node.log"
        self.command = [sys.executable, "-m", "isanet_jax", "node", "--model",
                        str(folder / "model.isanet"), "--folder", str(folder / "q"), "--port",
                        str(port), "--accept", "SCANNER", "--quiet-s", "2", "--status-port",
                        str(self.page), *to]  # fmt: skip
        self.start()

    def start(self):
        """Starts it, and waits until it answers."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        while not self.counts():
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text()[-2000:])
            time.sleep(0.2)

    def counts(self):
        """Of its page."""
        try:
            url = f"http://127.0.0.1:{self.page}/status.json"
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.loads(answer.read())["counts"]
        except OSError:
            return {}

    def kill(self):
        """Without warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def weight(self):
        """(MiB, descriptors, threads)."""
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":\t") for line in (proc / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) // 1024
        return memory, len(list((proc / "fd").iterdir())), int(status["Threads"])


def make_model(folder):
    """A small network that finds something in noise."""
    run = [sys.executable, "-m", "isanet_jax"]
    train = ["train", "--config", "phantom", "--workdir", "r", *_SMALL]
    subprocess.run([*run, *train], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    write_json(folder / "rules.json", {"classes": {"tumour": {"threshold": 1e-6}}})
    bundle = ["bundle", "--workdir", "r", "--output", "model.isanet", "--rules", "rules.json"]
    subprocess.run([*run, *bundle], check=True, cwd=folder, stdout=subprocess.DEVNULL)


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    folder, choose = Path(tempfile.mkdtemp()), random.Random(0)  # noqa: S311 - of faults
    make_model(folder)
    studies = []
    for number in range(args.studies):
        shared = make_dicom.study(patient=f"DOE^{number}", patient_id=f"P{number}")
        make_dicom.write_patient(folder / "scans" / str(number), shared, seed=number)
        studies.append(
            [p for kind in "ab" for p in sorted((folder / "scans" / str(number) / kind).iterdir())]
        )
    port, moody = free_port(), Moody(choose)
    orthanc = Orthanc(folder / "orthanc", port) if _ORTHANC else None
    to = ["--to", f"127.0.0.1:{moody.port}:MOODY"]
    to += ["--to", f"127.0.0.1:{orthanc.port}:SCANNER"] if orthanc else []
    node = Node(folder, port, to)

    def send(number):
        if orthanc and number % 5 == 0:
            return orthanc.send(studies[number])
        command = ["storescu", "-aet", "SCANNER", "-aec", "ISANET", "127.0.0.1", str(port)]
        while subprocess.run(
            [*command, *studies[number]], capture_output=True, check=False
        ).returncode:
            time.sleep(0.5)
        return None

    begun, told = time.monotonic(), 0.0
    with ThreadPoolExecutor(3) as pool:
        sending = [pool.submit(send, number) for number in range(args.studies)]
        kills = sorted(choose.sample(range(args.studies), args.kills))
        while (counts := node.counts()).get("done", 0) < args.studies:
            if kills and counts.get("done", 0) >= kills[0]:
                time.sleep(choose.uniform(0, 2))
                node.kill()
                kills.pop(0)
                node.start()
            if time.monotonic() - told > _EACH_S:
                told = time.monotonic()
                memory, files, threads = node.weight()
                print(f"{told - begun:6.0f} s {counts}: {memory} MiB, {files} descriptors, "
                      f"{threads} threads", flush=True)  # fmt: skip
            if counts.get("failed") or time.monotonic() - begun > 20 * args.studies:
                break
            time.sleep(0.5)
        for one in sending:
            one.result()
    print(f"{node.counts()} in {time.monotonic() - begun:.0f} s, {args.kills - len(kills)} kills")
    node.kill()
    kept = {"MOODY": moody.got}
    if orthanc:
        lines = (line.split() for line in orthanc.log.read_text().splitlines())
        kept["Orthanc"] = Counter(uid for kind, uid in lines if kind in ("SEG", "RTSTRUCT"))
        orthanc.process.terminate()
    for name, got in kept.items():
        print(f"{name}: {len(got)} results of {2 * args.studies}; times each came: "
              f"{dict(Counter(got.values()))}")  # fmt: skip
    print(f"a patient's name in the log: {'DOE' in node.log.read_text()}")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
