"""What an administrator sets up: options in a file, health and figures, unit, container."""

import argparse
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from isanet_jax.cli import node
from isanet_jax.errors import ConfigError

pytest.importorskip("pynetdicom")
pytest.importorskip("prometheus_client")

from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, EnhancedCTImageStorage

from isanet_jax.node import figures as of_node
from isanet_jax.node.queue import Queue
from isanet_jax.node.receiver import listen
from tests.node.test_node import close, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"


def parsed(folder, text, *flags):
    file = folder / "node.toml"
    file.write_text(text)
    return node.parser().parse_args([*node._options_of(file), *flags])


def test_all_options_from_a_file(tmp_path):
    text = (DEPLOY / "node.toml").read_text()
    args = parsed(tmp_path, text, "--port", "1")
    assert (args.model, args.to) == ([Path("/etc/isanet/model.isanet")], ["10.0.0.5:104:PACS"])
    assert (args.keep_identity, args.port, args.accept) == (True, 1, ["PACS"])
    args = parsed(tmp_path, "keep_identity = false\nto = ['a:1:A', 'b:2:B']\nquiet-s = 2.5")
    assert (args.keep_identity, args.to, args.quiet_s) == (False, ["a:1:A", "b:2:B"], 2.5)
    # Whatever there is can be in the file.
    for action in node.parser().options:
        name = action.option_strings[-1].lstrip("-")
        if name not in ("help", "config", "look-up"):
            value = "true" if action.nargs == 0 else f'"{(action.choices or ["1"])[0]}"'
            assert isinstance(parsed(tmp_path, f"{name} = {value}"), argparse.Namespace)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 3", "no option 'prot'; did you mean port"),
        ("look-up = '1'", "no option 'look-up'"),
        ("[a]\nb = 1", "no option 'a'"),
        ("port = true", "port = True; expected text, a number"),
        ("keep-identity = 'yes'", "expected true or false"),
        ("to = [['a']]", "expected text"),
        ("port = ", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_meant(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, text)
    for lacking in ("model", "accept"):
        (tmp_path / "n.toml").write_text("model = 'm'\n" if lacking == "accept" else "")
        with pytest.raises(ConfigError, match=f"give --{lacking}"):
            node.main(["--config", str(tmp_path / "n.toml")])


def ask(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.read().decode()


def test_health_and_figures(tmp_path, monkeypatch):
    queue = Queue(tmp_path / "q", most_bytes=2**30, least_free=0)
    figures = of_node.Figures(queue)
    health = of_node.serve(figures, "127.0.0.1", 0)
    said, port = [], free_port()
    server = listen(
        queue, ("127.0.0.1", port), "ISANET", ["PACS"], say=said.append, figures=figures
    )
    for title in ("PACS", "STRANGER", "STRANGER"):
        entity = AE(ae_title=title)
        entity.add_requested_context(CTImageStorage)
        entity.add_requested_context(EnhancedCTImageStorage)
        made = entity.associate("127.0.0.1", port, ae_title="ISANET")
        if made.is_established:  # what it does not read, it says before it is sent
            assert [c.abstract_syntax for c in made.accepted_contexts] == [CTImageStorage]
            made.release()
    at = health.server_port
    assert ask(at, "/healthz") == "ok\n"
    shown = ask(at, "/metrics")
    assert 'isanet_node_associations_total{outcome="accepted"} 1.0' in shown
    assert 'isanet_node_associations_total{outcome="refused"} 2.0' in shown
    assert 'isanet_node_studies{state="waiting"} 0.0' in shown
    assert said == [
        "association of PACS at 127.0.0.1: accepted",
        "association of STRANGER at 127.0.0.1: refused",
    ]
    queue.most_bytes = -1
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        ask(at, "/healthz")
    assert caught.value.read() == b"no room on the disk: nothing is taken\n"
    queue.most_bytes = 1
    monkeypatch.setattr(figures, "_last", time.time() - 4000)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        ask(at, "/healthz")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(at, "/status")
    close(server)
    close(health)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one(tmp_path):
    text = (DEPLOY / "isanet-node.service").read_text()
    unit = tmp_path / "isanet-node.service"
    unit.write_text(text.replace("/opt/isanet/bin/isanet", sys.executable))
    verify = [shutil.which("systemd-analyze"), "verify", unit]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_container_s_file():
    lint = Path(sys.executable).parent / "hadolint"
    if not lint.exists():
        pytest.skip("needs hadolint (requirements-dev.txt)")
    command = [lint, DEPLOY / "Containerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
