"""Files that are written whole, or not at all."""

import csv
import json

import pytest

from isanet_jax.errors import DataError
from isanet_jax.files import (
    check_new,
    files_below,
    replace_when_done,
    visible,
    write_csv,
    write_json,
)


def test_a_table_of_one_row_and_of_many(tmp_path):
    for rows in ([{"a": 1, "b": "x"}], [{"a": 1, "b": "x"}, {"a": 2, "b": "=1+1"}]):
        write_csv(tmp_path / "t.csv", rows)
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        assert [row["a"] for row in found] == [str(row["a"]) for row in rows]
    assert found[1]["b"] == "'=1+1"  # no formula for a spreadsheet
    write_csv(tmp_path / "t.csv", [{"a": -1.5, "b": "-3 to 4"}], columns=["b", "a"])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["b,a", "-3 to 4,-1.5"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": [1, 2]})
    assert json.loads(path.read_text()) == {"a": [1, 2]}

    def fail_halfway():
        with replace_when_done(path) as partial:
            partial.write_text("half")
            raise ValueError("of a made-up bug")

    with pytest.raises(ValueError, match="of a made-up bug"):
        fail_halfway()
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]

    def fail_at_once():
        with replace_when_done(path):
            raise ValueError("before anything was written")

    with pytest.raises(ValueError, match="before anything"):
        fail_at_once()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})


def test_existing_files_are_replaced_on_request(tmp_path):
    check_new(tmp_path / "a")
    (tmp_path / "a").touch()
    check_new(tmp_path / "a", overwrite=True)
    with pytest.raises(DataError, match="exists already.*--overwrite"):
        check_new(tmp_path / "a")


def test_macos_files_are_not_seen(tmp_path):
    for name in ("b", "a", "._a", "__MACOSX/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in visible(files)] == ["a", "b"]


def test_links_to_folders_are_followed_and_no_folder_is_read_twice(tmp_path):
    cohort, elsewhere = tmp_path / "cohort", tmp_path / "elsewhere"
    for path in (cohort / "a" / "1", cohort / "a" / "._1", elsewhere / "deep" / "2"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (cohort / "b").symlink_to(elsewhere)
    (cohort / "again").symlink_to(cohort / "a")
    (elsewhere / "back").symlink_to(cohort)
    (cohort / "lost").symlink_to(tmp_path / "absent")
    assert list(files_below(cohort)) == [cohort / "a" / "1", cohort / "b" / "deep" / "2"]
