"""Work shared by processes and machines: parts of prepare, and a Dask cluster that loses one."""

import csv
import json
import os
import signal
from functools import partial

import pytest

import isanet_jax.api as isa
from isanet_jax.cli import predict
from isanet_jax.datasets.table import read_table
from isanet_jax.errors import ConfigError
from isanet_jax.parallel import on_cluster


def grid():
    return {"size": 16, "fit": "crop", "spacing_mm": 12.0, "folds": 2}


def test_parts_of_prepare_make_what_one_process_makes(cohort_folder, tmp_path, capsys):
    table = cohort_folder / "scans" / "cases.csv"
    alone = isa.prepare(table, tmp_path / "one", **grid())
    for part in ("2/3", "1/3"):
        assert isa.prepare(table, tmp_path / "parts", part=part, **grid()) == []
        assert not (tmp_path / "parts" / "manifest.json").exists()
    together = isa.prepare(table, tmp_path / "parts", part="3/3", **grid())
    for one, other in zip(alone, together, strict=True):
        assert one["digest"] == other["digest"]
    dealt = [(tmp_path / name / "folds.json").read_text() for name in ("one", "parts")]
    assert dealt[0] == dealt[1]
    assert not list((tmp_path / "parts" / ".claims").iterdir())


def die_once(folder, number):
    """Item 3 kills its worker the first time."""
    mark = folder / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        raise ValueError("a bad one")
    with open(folder / "log", "a") as log:
        log.write(f"{number}\n")
    return number**2


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs .[cluster]")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as one:
        yield one


@pytest.mark.filterwarnings("ignore")  # of sockets that a killed worker leaves
def test_a_cluster_of_three_of_which_one_is_killed(cluster, tmp_path):
    found, failed = {}, []
    work = partial(die_once, tmp_path)
    for item, outcome in on_cluster(work, list(range(12)), cluster.scheduler_address):
        try:
            found[item] = outcome()
        except ValueError:
            failed.append(item)
    assert failed == [5]
    assert found == {n: n**2 for n in range(12) if n != 5}
    assert (tmp_path / "died").exists()


@pytest.mark.filterwarnings("ignore")
def test_scans_predicted_by_a_cluster_are_those_of_one_machine(
    cluster, trained, cohort_folder, tmp_path
):
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"classes": {"tumour": {"threshold": 1e-6}}}))
    scans = str(cohort_folder / "scans")
    for name, flags in {"one": [], "many": ["--cluster", cluster.scheduler_address]}.items():
        arguments = ["--model", str(trained), "--rules", str(rules), "-i", scans]
        predict.main([*arguments, "-o", str(tmp_path / name), *flags])

    def rows(name):
        with open(tmp_path / name / "lesions.csv", newline="") as file:
            return list(csv.DictReader(file))

    assert len(rows("one")) >= len(read_table(cohort_folder / "scans" / "cases.csv"))
    assert rows("one") == rows("many")


def test_no_cluster_is_an_error_in_a_line(monkeypatch):
    pytest.importorskip("distributed", reason="needs .[cluster]")
    monkeypatch.setattr("isanet_jax.parallel._ANSWER_S", 0.5)
    with pytest.raises(ConfigError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        list(on_cluster(abs, [1], "tcp://127.0.0.1:1"))
