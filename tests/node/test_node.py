"""A DICOM node between two peers: nothing is lost, nothing is sent twice, nothing else is taken."""

import contextlib
import copy
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pydicom
import pytest

from isanet_jax.cli import node
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.prediction.predictor import Predictor
from isanet_jax.prediction.rules import Rules
from tests.conftest import PATIENCE
from tests.dicom import make_dicom

pynetdicom = pytest.importorskip("pynetdicom")

from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.sop_class import (  # noqa: E402
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
)

from isanet_jax.node import queue as queue_module  # noqa: E402
from isanet_jax.node import (  # noqa: E402
    receiver,
    status,
)
from isanet_jax.node.queue import Queue  # noqa: E402
from isanet_jax.node.receiver import listen  # noqa: E402
from isanet_jax.node.sender import AUTHORIZATION, NotSent, Peer, Web  # noqa: E402
from isanet_jax.node.worker import Worker  # noqa: E402

IMAGES = (CTImageStorage, PositronEmissionTomographyImageStorage, MRImageStorage)
GIB = 2**30


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def close(server):
    server.shutdown()
    server.server_close()


def images_of(folder, kinds="ab"):
    return [pydicom.dcmread(path) for kind in kinds for path in sorted((folder / kind).iterdir())]


def store(port, datasets, *, called="ISANET", calling="SCANNER"):
    """Sends instances; their statuses, or None where there is no association."""
    entity = AE(ae_title=calling)
    for uid in (*IMAGES, RTStructureSetStorage):
        entity.add_requested_context(uid)
    made = entity.associate("127.0.0.1", port, ae_title=called)
    if not made.is_established:
        return None
    found = [made.send_c_store(one).get("Status") for one in datasets]
    made.release()
    return found


def kept_bytes(queue):
    """Of the images of studies that were predicted."""
    return sum(path.stat().st_size for path in (queue.folder / "kept").rglob("*.dcm"))


class Archive:
    """A peer that counts what it gets, and refuses or falls silent when it is told to."""

    def __init__(self, *, can_find=False):
        self.port, self.got, self.answer, self.asked = free_port(), [], 0x0000, 0
        entity = AE(ae_title="PACS")
        for uid in (SegmentationStorage, RTStructureSetStorage):
            entity.add_supported_context(uid)
        if can_find:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        address = ("127.0.0.1", self.port)
        self.server = entity.start_server(address, block=False, evt_handlers=handlers)

    def _store(self, event):
        if self.answer == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.got.append(dataset)
        return self.answer

    def _find(self, event):
        self.asked += 1
        for one in self.got:
            if one.SOPInstanceUID == event.identifier.SOPInstanceUID:
                yield 0xFF00, event.identifier
        yield 0x0000, None

    @property
    def peer(self):
        return Peer("127.0.0.1", self.port, "PACS", "ISANET")


@pytest.fixture(scope="module")
def predictor(trained):
    predictor = Predictor([trained])
    predictor.rules = {"tumour": Rules(threshold=1e-6)}  # of noise, something is found
    return predictor


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_dicom.write_patient(folder)
    return folder


@pytest.fixture
def archive():
    one = Archive(can_find=True)
    yield one
    close(one.server)


@pytest.fixture
def made(tmp_path, predictor, archive):
    """(queue, worker, port of the node, what it said)."""
    queue = Queue(tmp_path / "node", most_bytes=GIB, least_free=0)
    port, said = free_port(), []
    server = listen(queue, ("127.0.0.1", port), "ISANET", ["SCANNER"])
    worker = Worker(queue, predictor, [archive.peer], say=said.append)
    yield queue, worker, port, said
    close(server)


def work(worker):
    while worker.step(0.0):
        pass


def counts(queue):
    return {name: count for name, count in queue.state()["counts"].items() if count}


def wait_closed(queue):
    """Until the node has noticed that the associations are closed."""
    deadline = time.monotonic() + 10
    while any(queue._open.values()) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_study_comes_in_and_its_results_go_out_once(made, archive, study, capsys):
    queue, worker, port, said = made
    sent = images_of(study)
    assert set(store(port, sent)) == {0}
    wait_closed(queue)
    assert worker.step(60.0) is False  # more may come
    work(worker)
    assert counts(queue) == {"done": 1}
    kinds = Counter(one.SOPClassUID for one in archive.got)
    assert kinds == {SegmentationStorage: 1, RTStructureSetStorage: 1}
    for one in archive.got:
        assert one.StudyInstanceUID == sent[0].StudyInstanceUID
        assert "DOE" not in str(one.PatientName)
    text = "\n".join(said) + json.dumps(queue.state()) + status.page(queue.state(), "a <b> node")
    for secret in ("DOE", 'P1"', str(sent[0].StudyInstanceUID)):
        assert secret not in text
    assert "a &lt;b&gt; node" in text
    # Sent again, whole: it is known. A node that begins anew knows it, too.
    assert set(store(port, sent)) == {0}
    wait_closed(queue)
    Queue(queue.folder, most_bytes=GIB, least_free=0)
    work(worker)
    assert counts(queue) == {"done": 1}
    assert len(archive.got) == 2
    assert "came again" in said[-1]


def test_what_its_images_are_warned_of_is_told(made, archive, study):
    queue, worker, port, _ = made
    images = images_of(study)
    for one in images:
        if one.Modality == "PT":
            one.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 350.0
    store(port, images)
    wait_closed(queue)
    work(worker)
    (done,) = queue.state()["done"]
    assert any("MBq" in text for text in done["warnings"]), done


def test_what_is_lacking_may_come_later(made, archive, study):
    queue, worker, port, _ = made
    store(port, images_of(study, "a"))
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"failed": 1}
    (failure,) = queue.state()["failed"]
    assert "no PET series among CT series" in failure["reason"]
    store(port, images_of(study, "b"))
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"done": 1}
    assert len(archive.got) == 2


def test_only_what_it_is_told_to_accept(made, study):
    queue, _, port, _ = made
    one = images_of(study)[:1]
    assert store(port, one, called="OTHER") is None
    assert store(port, one, calling="STRANGER") is None
    # The rest of a study is taken, for the sender's sake, and not kept.
    assert store(port, [pydicom.dcmread(study / "d" / "rs")]) == [0]
    assert counts(queue) == {}
    assert not list(queue.temporary.iterdir())


def test_a_full_disk_is_told_to_the_sender_and_loses_nothing(made, study, monkeypatch):
    queue, worker, port, _ = made
    sent = images_of(study)
    queue.most_bytes = 5 * len(sent[0].PixelData)
    answers = store(port, sent)
    assert answers[0] == 0
    assert answers[-1] == 0xA700
    queue.most_bytes = GIB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    queue.least_free = 1
    assert set(store(port, sent)) == {0xA700}
    monkeypatch.undo()
    assert set(store(port, sent)) == {0}
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"done": 1}
    assert queue._bytes == queue._count_bytes() == kept_bytes(queue)


def test_a_disk_that_fills_while_a_study_is_predicted_fails_none(made, archive, study, monkeypatch):
    queue, worker, port, _ = made
    store(port, images_of(study))
    wait_closed(queue)

    def full(*_, **__):
        raise DataError("cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr("isanet_jax.node.worker.write_outputs", full)
        patch.setattr(queue, "has_disk", lambda **_: False)
        with pytest.raises(DataError, match="No space"):
            work(worker)
        assert counts(queue) == {"waiting": 1}
    work(worker)
    assert counts(queue) == {"done": 1}
    assert len(archive.got) == 2


@pytest.mark.parametrize("can_find", [True, False])
def test_killed_between_sending_and_noting_it(tmp_path, predictor, study, can_find, monkeypatch):
    """The peer is asked; where it cannot say, it gets the same instance, by the same UID."""
    archive = Archive(can_find=can_find)
    queue = Queue(tmp_path / "node", most_bytes=GIB, least_free=0)
    worker = Worker(queue, predictor, [archive.peer], say=lambda _: None)
    for one in images_of(study):
        path = tmp_path / "one.dcm"
        one.save_as(path, enforce_file_format=True)
        key = queue.add(str(one.StudyInstanceUID), str(one.SOPInstanceUID), path)
    set_sent = queue.set_sent

    def die(key, name, state):
        if state == "sent":
            raise KeyboardInterrupt
        set_sent(key, name, state)

    monkeypatch.setattr(queue, "set_sent", die)
    with pytest.raises(KeyboardInterrupt):
        work(worker)
    assert len(archive.got) == 1
    again = Queue(queue.folder, most_bytes=GIB, least_free=0)
    assert again.to_send() == [key]
    work(Worker(again, predictor, [archive.peer], say=lambda _: None))
    close(archive.server)
    assert counts(again) == {"done": 1}
    uids = Counter(one.SOPInstanceUID for one in archive.got)
    assert len(uids) == 2
    assert sum(uids.values()) == (2 if can_find else 3)


def test_killed_at_any_rename_it_goes_on(tmp_path, predictor, study, archive):
    """Each state that a kill can leave is made by hand: one result in the end, whichever it is."""
    for number, step in enumerate(("received", "waiting", "predicted", "sent")):
        folder = tmp_path / str(number)
        queue = Queue(folder, most_bytes=GIB, least_free=0)
        uid = None
        for one in images_of(study):
            one.save_as(tmp_path / "one.dcm", enforce_file_format=True)
            uid = str(one.StudyInstanceUID)
            queue.add(uid, str(one.SOPInstanceUID), tmp_path / "one.dcm")
        key, worker = (
            queue.digests.of(uid),
            Worker(queue, predictor, [archive.peer], say=lambda _: None),
        )
        before = len(archive.got)
        if step != "received":
            queue.settle(0)
        if step in ("predicted", "sent"):
            shutil.copytree(folder / "waiting" / key, tmp_path / "copy", dirs_exist_ok=True)
            worker.predict(key)
        if step == "predicted":  # killed before the images went
            shutil.copytree(tmp_path / "copy", folder / "waiting" / key)
        if step == "sent":  # killed before the results went
            shutil.copytree(folder / "ready" / key, tmp_path / "results")
            worker.send(key)
            job = json.loads((folder / "done" / f"{key}.json").read_text())
            shutil.copytree(tmp_path / "results", folder / "ready" / key)
            stale = json.loads((folder / "ready" / key / "job.json").read_text())
            assert stale["id"] == job["id"]
        again = Queue(folder, most_bytes=GIB, least_free=0)
        work(Worker(again, predictor, [archive.peer], say=lambda _: None))
        assert counts(again) == {"done": 1}, step
        assert len(archive.got) == before + 2, step
        assert again._bytes == kept_bytes(again) > 0
        assert not list(again.temporary.iterdir())


def test_a_peer_that_is_away_or_refuses(made, archive, study, monkeypatch):
    queue, worker, port, said = made
    monkeypatch.setattr("isanet_jax.node.worker._FIRST_PAUSE_S", 0.2)
    archive.answer = 0xA700  # out of resources: for now
    store(port, images_of(study))
    wait_closed(queue)
    worker.step(0.0)
    assert counts(queue) == {"ready": 1}
    assert "A700" in said[-1]
    archive.answer = 0
    time.sleep(0.3)
    work(worker)
    assert counts(queue) == {"done": 1}
    assert len(archive.got) == 2
    # Refused for good: kept, with the reason, and done when the study is sent again.
    archive.answer = 0xC000
    shared = make_dicom.study(patient_id="P2")
    make_dicom.write_patient(study / "second", shared)
    second = images_of(study / "second")
    store(port, second)
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"done": 1, "failed": 1}
    assert "C000" in queue.state()["failed"][0]["reason"]
    archive.answer = 0
    store(port, second)
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"done": 2}
    assert len(archive.got) == 4
    assert queue._bytes == kept_bytes(queue)


def test_a_silent_peer_holds_up_a_prediction_once(made, monkeypatch):
    queue, worker, *_ = made
    tried, silent = [], {"a", "b", "c"}
    monkeypatch.setattr(queue, "to_send", lambda: ["a", "b", "c", "d"])
    monkeypatch.setattr(worker, "_is_due", lambda key: key not in tried)
    monkeypatch.setattr(worker, "send", lambda key: tried.append(key) or key not in silent)
    assert worker.step(60)
    assert tried == ["a"]
    worker.step(60)
    silent.clear()
    worker.step(60)
    assert tried == ["a", "b", "c", "d"]  # those that wait for another trial hold up no other


def test_an_interrupted_association_keeps_what_came(made, study):
    queue, worker, port, _ = made
    entity = AE(ae_title="SCANNER")
    for uid in IMAGES:
        entity.add_requested_context(uid)
    association = entity.associate("127.0.0.1", port, ae_title="ISANET")
    sent = images_of(study)
    for one in sent[:3]:
        assert association.send_c_store(one).Status == 0
    assert not queue.settle(0.0)  # it is open
    association.abort()
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"failed": 1}
    store(port, sent[3:])
    wait_closed(queue)
    work(worker)
    assert counts(queue) == {"done": 1}


def test_results_over_the_web(study, monkeypatch):
    got, codes = [], [503, 200, 409, 302, 200, 202]
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [49442]}}]}}
    login = b"<html>Log in to see /studies?SOPInstanceUID=%s</html>"
    bodies, is_there = {4: json.dumps(failed).encode()}, [True]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            number = len(got)
            if number >= len(codes):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n[")
                self.close_connection = True
                return
            got.append(
                (self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"])))
            )
            authorized.append(self.headers["Authorization"])
            self.send_response(codes[number])
            self.send_header("Location", "/elsewhere")  # which a GET would find
            self.end_headers()
            self.wfile.write(bodies.get(number, b""))

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            answer = b'[{"00080018": {"Value": ["%s"]}}]' if is_there[0] else login
            self.wfile.write(answer % self.path.rpartition("=")[2].encode())

        def log_message(self, *_):
            pass

    authorized = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web = Web(f"http://127.0.0.1:{server.server_port}/studies")
    path = next((study / "a").iterdir())
    with pytest.raises(NotSent, match="503") as caught:
        web.send(path)
    assert not caught.value.final
    web.send(path)
    kind, body = got[-1]
    assert kind.startswith('multipart/related; type="application/dicom"; boundary=')
    boundary = kind.rpartition("=")[2].encode()
    assert (
        body.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n--%s--\r\n" % boundary)
        == path.read_bytes()
    )
    with pytest.raises(NotSent, match="409") as caught:
        web.send(path)
    assert caught.value.final
    assert set(authorized) == {None}
    monkeypatch.setenv(AUTHORIZATION, "Bearer 123")
    with pytest.raises(NotSent, match="302") as caught:  # followed, it would seem to be sent
        web.send(path)
    assert not caught.value.final
    assert authorized[-1] == "Bearer 123"
    with pytest.raises(NotSent, match="did not store .* .C122.") as caught:
        web.send(path)
    assert caught.value.final
    with pytest.raises(NotSent, match="202") as caught:
        web.send(path)
    assert not caught.value.is_known
    with pytest.raises(NotSent, match="not reached .IncompleteRead") as caught:  # cut short
        web.send(path)
    assert not caught.value.is_known
    assert web.has(path)
    # A page to log in at, which answers everything with success.
    is_there[0] = False
    assert not web.has(path)
    uid = pydicom.dcmread(path).SOPInstanceUID.encode()
    codes += [200, 200, 200]
    bodies[6] = login % uid
    with pytest.raises(NotSent, match="200 and does not say that it is stored") as caught:
        web.send(path)
    assert not caught.value.final
    stored = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": [uid.decode()]}}]}}
    bodies[7] = json.dumps(stored).encode()
    web.send(path)
    bodies[8] = b"<NativeDicomModel><Value>%s</Value></NativeDicomModel>" % uid
    web.send(path)
    close(server)
    assert not web.has(path)
    with pytest.raises(NotSent, match="not reached"):
        web.send(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_with_certificates_only_those_who_have_one_are_heard(tmp_path, study, predictor):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    openssl = shutil.which("openssl")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    flags = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-ca", str(cert)]
    args = node.parser().parse_args(
        ["--model", "m", "--accept", "ISANET", "--to", "127.0.0.1:1:ISANET", *flags]
    )
    queue, port = Queue(tmp_path / "node", most_bytes=GIB, least_free=0), free_port()
    server = listen(queue, ("127.0.0.1", port), "ISANET", ["ISANET"], tls=node._tls(args))
    (peer,) = node._peers(args)
    path = sorted((study / "a").iterdir())[0]
    with pytest.raises(NotSent, match="takes no association"):
        Peer("127.0.0.1", port, "ISANET", "ISANET").send(path)
    bare = ssl.create_default_context(cafile=cert)  # it knows the node, the node does not know it
    with pytest.raises(NotSent):
        peer._replace(port=port, tls=bare).send(path)
    with (
        socket.create_connection(("127.0.0.1", port)),  # that says nothing, and holds up nobody
        pytest.raises(NotSent, match="does not take"),  # heard: it is no result
    ):
        peer._replace(port=port).send(path)
    close(server)


def test_the_page_is_for_this_machine_and_says_what_there_is(made):
    queue, *_ = made
    server = status.serve(queue, 0, "node")
    assert server.server_address[0] == "127.0.0.1"
    url = f"http://127.0.0.1:{server.server_port}/status"
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
        assert "0 waiting" in answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    with urllib.request.urlopen(f"{url}.json") as answer:  # noqa: S310
        assert json.loads(answer.read())["counts"]["done"] == 0
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/../../etc/passwd")  # noqa: S310
    elsewhere = urllib.request.Request(url, headers={"Host": "example.org:11113"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(elsewhere)  # noqa: S310
    close(server)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "localhost:104"], "give HOST:PORT:AET"),
        ([], "where results go"),
        (["--stow", "file:///etc"], "give http:// or https://"),
        (["--stow", "https://me:secret@pacs/studies"], "ISANET_STOW_AUTHORIZATION"),
        (["--to", "a:1:PACS", "--aet", "x" * 17], "not an AE title"),
        (["--to", "a:1:PACS", "--tls-cert", "/none"], "certificate cannot be used"),
        (["--to", "a:1:PACS", "--metrics", "9104"], "give HOST:PORT"),
        (["--config", "/none.toml"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(trained, tmp_path, arguments, message):
    always = ["--model", str(trained), "--folder", str(tmp_path / "n"), "--accept", "A"]
    with pytest.raises(ConfigError, match=message):
        node.main([*always, *arguments])
    assert not (tmp_path / "n").exists()


def take(queue, datasets, folder):
    for one in datasets:
        one.save_as(folder / "one.dcm", enforce_file_format=True)
        queue.add(str(one.StudyInstanceUID), str(one.SOPInstanceUID), folder / "one.dcm")
    return queue.digests.of(str(datasets[0].StudyInstanceUID))


def test_what_comes_late_makes_a_result_of_all(tmp_path, predictor, study, archive):
    """A scanner that ends its association after half a PET, and sends the rest later."""
    images = sorted(images_of(study), key=lambda one: (one.Modality, one.InstanceNumber))
    pets = [one for one in images if one.Modality == "PT"]
    said = []
    queue = Queue(tmp_path / "q", most_bytes=GIB, least_free=0)
    worker = Worker(queue, predictor, [archive.peer], say=said.append)
    key = take(queue, [one for one in images if one not in pets[4:]], tmp_path)
    work(worker)
    half = json.loads((queue.folder / "done" / f"{key}.json").read_text())
    assert half["slices"] == {"ct": 8, "pet": 4}
    assert any("of 8 ct and 4 pet slices" in line for line in said)
    before = len(archive.got)
    take(queue, pets[4:], tmp_path)
    work(worker)
    whole = json.loads((queue.folder / "done" / f"{key}.json").read_text())
    assert whole["slices"] == {"ct": 8, "pet": 8}
    assert len(whole["instances"]) == len(images)
    assert any(
        f"{len(images)} instances wait, 4 more than it was predicted from" in x for x in said
    )
    assert len({one.SOPInstanceUID for one in archive.got}) == before + 2
    first, later = ({o.SOPClassUID: o for o in part} for part in (archive.got[:2], archive.got[2:]))
    seg, structures = later[SegmentationStorage], later[RTStructureSetStorage]
    (related,) = seg.RelatedSeriesSequence
    assert related.SeriesInstanceUID == first[SegmentationStorage].SeriesInstanceUID
    (earlier,) = structures.PredecessorStructureSetSequence
    assert earlier.ReferencedSOPInstanceUID == first[RTStructureSetStorage].SOPInstanceUID
    for one in first.values():
        assert "supersedes" not in str(one)
    # What was sent and is sent again is done; with other pixels it is not.
    take(queue, images, tmp_path)
    work(worker)
    assert said[-1] == f"{key}: came again: it was done before"
    changed = copy.deepcopy(pets[0])
    changed.PixelData = bytes(len(changed.PixelData))
    take(queue, [changed], tmp_path)
    work(worker)
    assert len({one.SOPInstanceUID for one in archive.got}) == before + 4
    assert counts(queue) == {"done": 1}
    assert queue._bytes == queue._count_bytes() == kept_bytes(queue)


def test_images_are_kept_for_a_while_and_while_there_is_room(
    tmp_path, predictor, study, archive, monkeypatch
):
    images = images_of(study)
    queue = Queue(tmp_path / "q", most_bytes=GIB, least_free=0)
    worker = Worker(queue, predictor, [archive.peer], say=lambda _: None)
    key = take(queue, images, tmp_path)
    work(worker)
    size = kept_bytes(queue)
    queue.most_bytes = size + 100
    assert queue.has_room(more=50)
    assert kept_bytes(queue) == size
    assert queue.has_room(more=200)  # they make room
    assert kept_bytes(queue) == queue._bytes == 0
    queue.most_bytes = GIB
    # Without them it is a study of what came, as before.
    take(queue, images[:1], tmp_path)
    work(worker)
    assert counts(queue) == {"done": 1}
    (queue.folder / "done" / f"{key}.json").unlink()
    take(queue, images, tmp_path)
    work(worker)
    assert kept_bytes(queue) == size
    monkeypatch.setattr(queue_module, "KEPT_S", -1.0)
    queue.prune()
    assert kept_bytes(queue) == queue._bytes == 0


def test_a_peer_that_is_away_holds_up_nobody_else(tmp_path, predictor, study, archive):
    away = Archive()
    close(away.server)
    said, queue = [], Queue(tmp_path / "q", most_bytes=GIB, least_free=0)
    worker = Worker(queue, predictor, [away.peer, archive.peer], say=said.append)
    key = take(queue, images_of(study), tmp_path)
    work(worker)
    assert len(archive.got) == 2
    assert counts(queue) == {"ready": 1}
    sent = queue.job(key)["sent"]
    assert {name.rpartition(" ")[2] for name, state in sent.items() if state == "sent"} == {
        archive.peer.name
    }
    # Named in another order, nobody gets it twice.
    back = Archive()
    again = Worker(queue, predictor, [archive.peer, back.peer], say=said.append)
    work(again)
    close(back.server)
    assert (len(archive.got), len(back.got)) == (2, 2)
    assert counts(queue) == {"done": 1}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_torn_record_stops_nobody(tmp_path, predictor, study, archive, content):
    queue = Queue(tmp_path / "q", most_bytes=GIB, least_free=0)
    key = take(queue, images_of(study), tmp_path)
    queue.settle(0)
    worker = Worker(queue, predictor, [archive.peer], say=lambda _: None)
    worker.predict(key)
    (queue.folder / "ready" / key / "job.json").write_text(content)
    again = Queue(queue.folder, most_bytes=GIB, least_free=0)
    work(Worker(again, predictor, [archive.peer], say=lambda _: None))
    assert counts(again) == {"done": 1}
    assert len(archive.got) == 2


def test_silent_connections_of_one_address_keep_nobody_out_for_long(tmp_path, study, monkeypatch):
    monkeypatch.setattr(receiver, "_HANDSHAKE_S", 1)
    monkeypatch.setattr(receiver, "_MOST_OF_ONE_ADDRESS", 4)
    queue, port = Queue(tmp_path / "q", most_bytes=GIB, least_free=0), free_port()
    server = listen(queue, ("127.0.0.1", port), "ISANET", ["SCANNER"])
    monkeypatch.setattr(receiver, "_MOST_ASSOCIATIONS", 1)  # those who say nothing have none
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for one in silent:
        one.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # those beyond the bound are closed already
            one.sendall(b"\1")
    assert [one.recv(1) for one in silent[4:]] == [b""] * 4
    ends = [_ended(one) for one in silent[:4]]
    assert ends == [True] * 4
    deadline = time.monotonic() + PATIENCE  # until the node has noticed it
    while (answers := store(port, images_of(study))) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(answers) == {0}
    close(server)


def _ended(connection):
    """Whether the other side closes a connection."""
    try:
        while connection.recv(4096):
            pass
    except (ConnectionResetError, BrokenPipeError):
        pass
    return True


@pytest.mark.parametrize("drip", [False, True])
def test_a_message_is_bounded_in_size_and_time(tmp_path, study, monkeypatch, drip):
    """An association request that claims 4 GiB, or one of which a byte comes now and then."""
    monkeypatch.setattr(receiver, "_TIMEOUT_S", 1)
    queue, port = Queue(tmp_path / "q", most_bytes=GIB, least_free=0), free_port()
    server = listen(queue, ("127.0.0.1", port), "ISANET", ["SCANNER"])
    claims = (2000 if drip else 2**32 - 1).to_bytes(4, "big")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(b"\1\0" + claims)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 500:
                connection.sendall(b"\0" * (1 if drip else 2**16))
                sent += 1
                time.sleep(0.05 if drip else 0.0)
        assert sent < 500
        assert _ended(connection)
    monkeypatch.undo()
    assert set(store(port, images_of(study))) == {0}
    close(server)
