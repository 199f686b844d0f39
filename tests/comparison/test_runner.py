import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from isanet_jax.configs.compare.experiments import EXPERIMENTS

from isanet_jax.comparison import grid, resources, runner
from isanet_jax.comparison.grid import make_cells, with_systems
from isanet_jax.comparison.runner import run_cells
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.settings import changed
from isanet_jax.settings.command_line import parse_command_line
from tests.conftest import small_config

ROOT = Path(__file__).parents[2]
COMPARISONS = ("everything", "fig6", "nnunet", "table1", "table2", "table3")


def comparison(name, options=""):
    flag = f"configs/compare/{name}.py" + (options and f":{options}")
    return parse_command_line(["compare.py", "--config", flag, "--workdir", "w"])[0]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


OPTIONS = ("", "sts", "hecktor,smoke", "own", "sts,smoke,own")


def check_cells(config, size):
    """A comparison has a cell for each of its pairs, all of this size."""
    cells = make_cells(config, Path("w"))
    methods = len(config["order"]) * len(config["seeds"]) + config["thresholds"]
    assert len(cells) == methods * len(config["folds"])
    assert len({cell.folder for cell in cells}) == len(cells)
    assert {cell.config.data.size for cell in cells} == {size}
    return cells


def test_the_comparisons_are_those_that_are_tested():
    found = {path.stem for path in (ROOT / "configs/compare").glob("*.py")}
    assert found == {*COMPARISONS, "comparison", "published", "experiments"}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_has_settings_that_work(name, options):
    if name == "nnunet" and (options not in ("", "sts")):  # of this cohort, in its one size
        with pytest.raises(ConfigError, match="sts"):
            comparison(name, options)
        return
    size = 32 if name == "nnunet" or "smoke" in options else 144
    cells = check_cells(comparison(name, options), size)
    if name == "everything":
        assert {cell.config.selection for cell in cells} == {"nested"}


ANY = {"": 144, "sts": 144, "hecktor,smoke": 32, "own": 144, "sts,smoke,own": 32}
# Experiment -> options that it takes, and the size of its networks' field then.
SIZES = {
    "isa_fusion": ANY,
    "isa_text": ANY,
    "fits": {"": 96, "sts": 96, "sts,smoke,own": 48},
    "sts_mr": {"": 144, "sts": 144, "sts,smoke,own": 32},
    "search": {"": 32, "sts": 32},
    "finetune": {"": 32, "sts": 32},
    "nodes": {"": 48, "sts": 48},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_settings_that_work(name, options):
    both = f"{name},{options}".rstrip(",")
    if options in SIZES[name]:
        check_cells(comparison("experiments", both), SIZES[name][options])
    else:
        with pytest.raises(ConfigError, match=f"{name} is for"):
            comparison("experiments", both)


def test_an_experiment_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no experiment 'x'; choose from isa_fusion, isa_text"):
        comparison("experiments", "x")


def test_starting_from_a_model_is_compared_with_starting_from_nothing():
    cells = make_cells(comparison("experiments", "finetune"), Path("w"))
    found = {(cell.method, cell.seed): cell.config.init for cell in cells}
    of_method = {"drawn": "", "started": "model.isanet"}
    assert found == {(name, seed): init for name, init in of_method.items() for seed in range(3)}


def settings_of_methods(name, options=""):
    return {cell.method: cell.config for cell in make_cells(comparison(name, options), Path("w"))}


def test_the_papers_recipes_reach_the_cells():
    settings = {
        cell.method: cell.config for cell in make_cells(comparison("table3", "sts"), Path("w"))
    }
    rates = {n: (s.optimizer.name, s.optimizer.peak_learning_rate)
             for n, s in settings.items()}  # fmt: skip
    assert rates == {
        "iantsen2020": ("adam", 1e-4),
        "xie2020": ("adam", 1e-4),
        "xie2021": ("sgd", 1e-3),
        "an2021": ("adam", 1e-4),
        "isa": ("adam", 3e-4),
    }
    own = {
        cell.method: cell.config for cell in make_cells(comparison("table3", "sts,own"), Path("w"))
    }
    assert own["xie2021"].data.patch == 128
    assert own["xie2021"].optimizer.schedule == "poly"
    assert own["xie2021"].data.cases == "cases/sts"
    assert own["isa"] == settings["isa"]
    fig6 = settings_of_methods("fig6", "sts")
    assert fig6["alpha_inf"].model.fusion_weights == (0.0, 1.0)
    table1 = settings_of_methods("table1")
    assert table1["pet"].model.modalities == ("pet",)


def test_any_system_can_be_compared_by_its_name():
    config = with_systems(comparison("table2", "sts,smoke") | {"order": ["isa", "an2021"]})
    cells = [cell for cell in make_cells(config, Path("w")) if cell.method == "an2021"]
    assert {cell.config.model.name for cell in cells} == {"an2021"}
    assert config["methods"]["an2021"]["label"] == "an2021"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ["isaa"]}, "order is isaa; choose from the methods cbam, isa"),
        ({"reference": "xie2020"}, "reference is 'xie2020'"),
        ({"order": ["unet"]}, "reference is 'isa'; choose one of the methods that are run, unet"),
    ],
)
def test_grids_that_cannot_work_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make_cells(comparison("table2", "sts") | change, Path("w"))


def test_settings_that_cannot_work_name_their_method():
    config = comparison("table2", "sts")
    config["methods"]["se"]["settings"] = {"model": {"nmae": "se"}}
    with pytest.raises(ConfigError, match="methods.se.settings.model.nmae is no setting"):
        make_cells(config, Path("w"))
    config["methods"]["se"]["settings"] = {"model": {"fusion": "dot"}}
    with pytest.raises(ConfigError, match="method se: model.fusion is 'dot'"):
        make_cells(config, Path("w"))
    config["methods"]["se"]["settings"] = {"model": 3}
    with pytest.raises(ConfigError, match="methods.se.settings.model is 3; give settings by"):
        make_cells(config, Path("w"))
    config["methods"]["se"] |= {"settings": {}, "members": 4}
    with pytest.raises(ConfigError, match="methods.se.members is 4; give for each network"):
        make_cells(config, Path("w"))
    config["methods"]["se"]["members"] = ["batch"]
    with pytest.raises(ConfigError, match="methods.se.members is 'batch'; give settings"):
        make_cells(config, Path("w"))
    config["methods"]["se"]["members"] = []
    config["methods"]["../out"] = config["methods"].pop("se")
    config["order"] = ["isa", "../out"]
    with pytest.raises(ConfigError, match="letters, digits"):
        make_cells(config, Path("w"))


def cells_in(folder, *, order, folds=(0, 1), thresholds=False):
    config = comparison("table2", "sts,smoke") | {"folds": folds, "seeds": (0,)}
    return make_cells(config | {"order": list(order), "thresholds": thresholds}, folder)


# Stands in for a cell's process: each does by its method what cells do.
PROCESS = """
import pathlib, signal, sys, time
method, folder = sys.argv[1], pathlib.Path(sys.argv[2])
if method == "se":
    print("epoch 1\\nerror: no such folder")
    sys.exit(2)
if method == "sk":
    import os; os.kill(os.getpid(), signal.SIGKILL)
if method == "cbam":
    signal.signal(signal.SIGTERM, lambda *_: (folder / "saved").touch() or sys.exit(3))
    (folder / "ready").touch()
    time.sleep(60)
    sys.exit(1)
(folder / "scores.json").write_text("{}")
"""


@pytest.fixture
def stand_in(monkeypatch):
    def start(cell, resources, lock):
        command = [sys.executable, "-c", PROCESS, cell.method, str(cell.folder)]
        options = {"start_new_session": True, "pass_fds": [lock.fileno()]}
        with open(cell.folder / "log.txt", "wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, **options)

    monkeypatch.setattr(runner, "_start", start)
    monkeypatch.setattr(runner, "check_data", lambda cells: {})
    # They have no cases; what figures rest on is tested in tests/cli/test_compare.py.
    monkeypatch.setattr(grid.Cell, "basis", {})
    monkeypatch.setattr(grid, "changes", lambda folder, basis: "")


def test_cases_are_looked_at_before_anything_is_run(tmp_path, cohort_folder):
    cells = cells_in(tmp_path, order=["isa", "se"], folds=(0, 9))
    with pytest.raises(DataError, match=r"cases/sts32.*no such folder"):
        run_cells(cells)
    data = {f"data.{name}": x for name, x in small_config(cohort_folder)["data"].items()}
    cells = [replace(cell, config=changed(cell.config, data)) for cell in cells]
    cells[0] = replace(cells[0], config=changed(cells[0].config, {"data.size": 32}))
    problems = grid.check_data(cells)
    assert problems.keys() == {"isa fold 0 seed 0", "isa fold 9 seed 0", "se fold 9 seed 0"}
    assert "prepared with size 16" in str(problems["isa fold 0 seed 0"])
    assert "fold is 9" in str(problems["se fold 9 seed 0"])
    assert not list(tmp_path.iterdir())


# The accelerator's memory belongs to the cells.
PARENT = """
from isanet_jax.cli import compare as command
from isanet_jax.comparison import grid, report, runner
from isanet_jax.settings import changed
from isanet_jax.settings.command_line import parse_command_line
from tests.conftest import small_config
from jax._src import xla_bridge
config, workdir = parse_command_line(["c", "--config", "configs/compare/table3.py:sts,own"])
grid.make_cells(config, workdir)
assert not xla_bridge.backends_are_initialized()
"""


def test_the_process_that_starts_the_cells_takes_no_device():
    subprocess.run([sys.executable, "-c", PARENT], check=True, timeout=120)


@pytest.mark.usefixtures("stand_in")
def test_failing_cells_are_reported_and_tried_again_and_finished_ones_left_alone(tmp_path, capsys):
    cells = cells_in(tmp_path, order=["se", "isa", "sk"])
    failures, stopped, _ = run_cells(cells, jobs=2)
    assert stopped is None
    assert [c.method for c in cells if c.is_done] == ["isa", "isa"]
    assert failures["se fold 0 seed 0"] == "no such folder"
    assert "killed by SIGKILL; the machine may be short of memory" in failures["sk fold 1 seed 0"]
    assert len(failures) == 4
    assert re.search(r"\[6/6\] .*; about 0 min left\n", capsys.readouterr().out)
    stamp = cells[1].folder.joinpath("scores.json").stat().st_mtime_ns
    again, *_ = run_cells(cells, jobs=2)
    assert again.keys() == failures.keys()
    assert cells[1].folder.joinpath("scores.json").stat().st_mtime_ns == stamp
    assert "6 cells: 2 done, 4 to run" in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_the_time_that_is_left_is_of_trainings(tmp_path, capsys):
    cells = cells_in(tmp_path, order=["isa"], folds=(0,), thresholds=True)
    run_cells(sorted(cells, key=lambda cell: cell.is_trained))
    out = capsys.readouterr().out
    assert re.search(r"\[1/2\] thresholds fold 0 seed 0: done in \S+ min\n", out)
    assert re.search(r"\[2/2\] isa fold 0 seed 0: done in .*; about 0 min left\n", out)


@pytest.mark.usefixtures("stand_in")
def test_a_folder_of_other_settings_is_a_failed_cell(tmp_path):
    run_cells(cells_in(tmp_path, order=["isa"]))
    cells = cells_in(tmp_path, order=["isa"])
    cells[0] = replace(cells[0], config=changed(cells[0].config, {"train.epochs": 7}))
    failures, *_ = run_cells(cells)
    assert list(failures) == ["isa fold 0 seed 0"]
    assert "train.epochs: 25 there, 7 now" in failures["isa fold 0 seed 0"]


@pytest.mark.usefixtures("stand_in")
def test_a_signal_reaches_the_running_cells_and_starts_no_more(tmp_path):
    cells = cells_in(tmp_path, order=["cbam", "isa"])

    def interrupt():
        while not (cells[0].folder / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(signal.SIGTERM)
    failures, stopped, _ = run_cells(cells)
    assert (failures, stopped) == ({}, "SIGTERM")
    assert (cells[0].folder / "saved").exists()
    assert not any(cell.is_done for cell in cells)
    assert signal.getsignal(signal.SIGTERM) == before


OTHER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from isanet_jax.comparison.runner import _lock
lock = _lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.usefixtures("stand_in")
def test_no_cell_is_taken_twice_and_a_killed_ones_is_free_again(tmp_path, capsys):
    cells = cells_in(tmp_path, order=["isa", "unet"], folds=(0,))
    cells[0].folder.mkdir(parents=True)
    command = [sys.executable, "-c", OTHER, str(cells[0].folder), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        outcome = run_cells(cells)
        assert outcome == ({}, None, ["isa fold 0 seed 0"])
        assert [cell.is_done for cell in cells] == [False, True]
        assert not (cells[0].folder / "log.txt").exists()
        other.kill()
    assert run_cells(cells) == ({}, None, [])
    assert cells[0].is_done
    assert "done elsewhere" not in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_comparisons_that_run_at_once_share_the_cells(tmp_path, capsys):
    cells = cells_in(tmp_path, order=["isa", "unet", "cbam"], folds=(0, 1))
    slow = [cell for cell in cells if cell.method == "cbam"]  # theirs sleep until told to stop
    fast = [cell for cell in cells if cell.method != "cbam"]
    for cell in cells:
        cell.folder.mkdir(parents=True)
    first = runner._Processes(1)
    with first:
        running = first.run([slow[0], *fast[:1]])
        thread = threading.Thread(target=lambda: list(running))
        thread.start()
        while thread.is_alive() and not (slow[0].folder / "ready").exists():
            time.sleep(0.01)
        second = runner._Processes(1)
        done = [cell for cell, status, _ in second.run([slow[0], *fast]) if status == 0]
        assert done == fast
        assert second.elsewhere == [slow[0]]
        os.kill(first.running[0][1].pid, signal.SIGTERM)
        thread.join(60)
    assert f"{fast[0].name}: done elsewhere" in capsys.readouterr().out


def test_a_gpu_each_or_a_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert [part.gpu for part in resources.divide_resources(0)] == ["2", "5", "7"]
    assert [part.gpu for part in resources.divide_resources(2)] == ["2", "5"]
    with pytest.raises(ConfigError, match="--jobs is 4 and there are 3 GPUs"):
        resources.divide_resources(4)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert resources.divide_resources(0) == [resources.Resources()]
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        one, two = (set(part.cores) for part in resources.divide_resources(2))
        assert not one & two
