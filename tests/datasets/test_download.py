import hashlib
import http.server
import threading

import pytest

from isanet_jax.cli.prepare import main
from isanet_jax.datasets import download
from isanet_jax.datasets.download import RemoteFile, read_list, sts_files
from isanet_jax.errors import ConfigError, DataError

CONTENT = {
    f"ibsi_validation/nifti/STS_00{n}/CT_image.nii.gz": bytes([n]) * (400_000 + n) for n in (1, 2)
}


def listed(name, content):
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
    return RemoteFile(name, blob, len(content), hashlib.sha256(content).hexdigest())


FILES = [listed(name, content) for name, content in CONTENT.items()]


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; `cuts` connections are cut half-way, `content` may be spoilt."""

    cuts = 0
    content = CONTENT
    ranges = True
    asked = ()

    def do_GET(self):
        type(self).asked = (*self.asked, (self.path, self.headers.get("Range")))
        body = self.content.get(self.path.lstrip("/"))
        if body is None:
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if type(self).cuts:
            type(self).cuts -= 1
            self.wfile.write(body[start : start + 30_000])
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    class Mine(Handler):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        Mine.url = f"http://127.0.0.1:{running.server_port}"
        yield Mine
        running.shutdown()
        thread.join()


def fetch(server, folder, files=FILES):
    download.download(folder, files, url=server.url, wait_s=0)


def check_all(folder):
    for name, content in CONTENT.items():
        path = folder / name.removeprefix("ibsi_validation/nifti/")
        assert path.read_bytes() == content
    assert not list(folder.rglob("*.part"))


def test_files_are_fetched_once(server, tmp_path):
    fetch(server, tmp_path)
    check_all(tmp_path)
    assert len(server.asked) == 2
    fetch(server, tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_continued(server, tmp_path, ranges):
    server.cuts, server.ranges = 3, ranges
    fetch(server, tmp_path)
    check_all(tmp_path)
    assert server.asked[1][1] == "bytes=30000-"


def test_a_connection_that_stays_cut_goes_on_with_the_next_call(server, tmp_path):
    server.cuts = 100
    with pytest.raises(DataError, match="STS_001.*cannot be fetched.*resumes from here"):
        fetch(server, tmp_path)
    kept = sum(p.stat().st_size for p in tmp_path.rglob("*.part"))
    assert kept == 150_000
    server.cuts = 0
    fetch(server, tmp_path)
    check_all(tmp_path)


def test_a_size_that_the_list_does_not_know(server, tmp_path):
    files = [file._replace(size=0, sha256="") for file in FILES]
    server.cuts = 1
    fetch(server, tmp_path, files)
    check_all(tmp_path)


def test_wrong_sums_are_refused(server, tmp_path):
    name = FILES[0].path
    server.content = CONTENT | {name: CONTENT[name][:-1] + b"x"}
    with pytest.raises(DataError, match="STS_001.*another size or sum"):
        fetch(server, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    server.content = CONTENT
    fetch(server, tmp_path)
    check_all(tmp_path)
    damaged = tmp_path / "STS_001" / "CT_image.nii.gz"
    damaged.write_bytes(b"damaged")
    fetch(server, tmp_path)
    check_all(tmp_path)


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, _):
            raise OSError(28, "No space left on device")

    def full(path, mode="r", **more):
        file = real(path, mode, **more)
        return Full(file) if str(path).endswith(".part") and mode in ("ab", "wb") else file

    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(DataError, match="No space left.*run the same command again"):
        fetch(server, tmp_path)


def test_what_is_not_there_and_paths_out_of_the_folder(server, tmp_path):
    with pytest.raises(DataError, match="absent.*404|absent.*Not Found"):
        fetch(server, tmp_path, [FILES[0]._replace(path="absent")])
    for path in ("../evil", "/etc/evil", "ibsi_validation/nifti/../../evil"):
        with pytest.raises(DataError, match="leaves the folder"):
            fetch(server, tmp_path, [FILES[0]._replace(path=path)])
    with pytest.raises(DataError, match="not an address"):
        download.download(tmp_path, FILES, url="file:///etc", wait_s=0)


def test_the_list_has_all_51_patients():
    files = sts_files()
    patients = {file.path.split("/")[2] for file in files}
    assert len(patients) == 51
    assert len(files) == 204
    assert all(len(file.blob) == 40 for file in files)
    assert read_list("# c\na\tb\t\t\n") == [RemoteFile("a", "b", 0, "")]


def test_the_command_fetches_and_then_prepares(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "sts_files", lambda: FILES)
    arguments = ["sts", "--download", "--url", server.url, "--output", str(tmp_path)]
    with pytest.raises(DataError, match="STS_001: no PET"):
        main(arguments)
    assert "Creative Commons" in capsys.readouterr().out
    check_all(tmp_path / "raw")
    with pytest.raises(ConfigError, match="--source, or --download"):
        main(["sts", "--output", str(tmp_path)])


def test_the_example_is_of_a_patient_that_no_model_has_seen(server, tmp_path, monkeypatch, capsys):
    from isanet_jax import models
    from isanet_jax.cli import example
    from isanet_jax.runs.bundle import read_bundle

    files = download.example_files()
    assert [file.path.rpartition("/")[2] for file in files] == [
        "CT_image.nii.gz", "PET_image.nii.gz",
    ]  # fmt: skip
    seen = set()
    for name in models.names():
        for description, _ in read_bundle(models.resolve(name)).networks:
            seen |= {one["file"] for of in description["identities"].values() for one in of}
    assert len(seen) == 36
    assert not {file.sha256 for file in files} & seen
    content = {file.path: b"x" * 9 for file in files}
    server.content = content
    monkeypatch.setattr(
        download, "example_files", lambda: [listed(*one) for one in content.items()]
    )
    example.main(["-o", str(tmp_path / "example"), "--url", server.url])
    assert (tmp_path / "example" / download.EXAMPLE / "PET_image.nii.gz").read_bytes() == b"x" * 9
    assert "predict --model sarcoma -i" in capsys.readouterr().out
