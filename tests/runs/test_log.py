"""metrics.jsonl: what is damaged in it, and that a validation reads nothing of it."""

import json

import pytest

from isanet_jax.errors import DataError
from isanet_jax.runs import log
from isanet_jax.runs.damage import disk_errors, read_saved
from isanet_jax.runs.log import RunLog, read_log

LINE = '{"step": 1, "epoch": 1, "loss": 0.5}'


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (f"{LINE}\n", [1]),
        (f"{LINE}\n{LINE}", [1, 1]),
        (f'{LINE}\n{{"step": 2, "ep', [1]),  # killed while it was written
        (f"{LINE}\n\0\0\0\0", [1]),  # the power went
        (f"{LINE}\n5", [1]),
        ("", []),
    ],
)
def test_a_torn_last_line_is_left_out(tmp_path, text, steps):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    assert [line["step"] for line in read_log(path)] == steps


@pytest.mark.parametrize("line", ["{", "5", "[]", "{}", '{"step": "1", "epoch": 1}', "", "\udcff"])
def test_any_other_line_that_is_damaged_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(f"{LINE}\n{line}\n{LINE}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"metrics.jsonl: line 2 of 3 is damaged"):
        read_log(path)


def test_a_validation_reads_nothing_of_what_was_written_before(tmp_path, monkeypatch, capsys):
    """Of 300 epochs it would be read 300 times."""
    with RunLog(tmp_path, 0, 40, 10) as record:
        monkeypatch.setattr(log, "read_log", None)
        dsc = {"mean": 0.5, "cases": {}, "classes": {"tumour": 0.5}}
        for step in range(1, 41):
            loss = {"loss": float(step)}
            record.step(step, loss, 1e-3, cases=1, seconds=0.5, waited=0.1 if step > 30 else 0.0)
            if step % 10 == 0:
                record.validation(step, dsc, {"best_dsc": 0.5, "best_epoch": 1})
    monkeypatch.undo()
    shown = capsys.readouterr().out
    for epoch, mean in enumerate((5.5, 15.5, 25.5, 35.5), start=1):
        assert f"epoch {epoch}: loss {mean:.4f}" in shown
    shares = [x["waiting_share"] for x in read_log(tmp_path / "metrics.jsonl") if "loss" not in x]
    assert shares == [0, 0, 0, 0.2]
    # Resumed within an epoch, what it had before counts.
    lines = [x for x in read_log(tmp_path / "metrics.jsonl") if x["step"] <= 35]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with RunLog(tmp_path, 35, 40, 10) as record:
        for step in range(36, 41):
            record.step(step, {"loss": float(step)}, 1e-3, cases=1, seconds=0.5, waited=0.1)
        record.validation(40, dsc, {"best_dsc": 0.5, "best_epoch": 1})
    assert "epoch 4: loss 35.5000" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "5", '{"best": 5}', '{"best": {"step": "x"}}'])
def test_a_damaged_record_of_checkpoints_is_told(tmp_path, content, caplog):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "saved.json").write_text(content)
    assert read_saved(tmp_path) == {}
    assert "saved.json is damaged" in caplog.messages[0]


def test_only_the_disks_errors_are_the_disks(tmp_path):
    with (
        pytest.raises(DataError, match="No space left.*Free space on the disk"),
        disk_errors(tmp_path),
    ):
        raise ValueError("OS error: No space left on device")
    with pytest.raises(DataError, match="Free space"), disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(DataError) as error, disk_errors(tmp_path):
        raise ValueError("the tree has a string")
    assert "Free space" not in str(error.value)
    assert "(the tree has a string). Look at what the message says" in str(error.value)
