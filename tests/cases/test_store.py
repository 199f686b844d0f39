"""Case files, tables and manifests: what is damaged, hostile, or read by many threads at once."""

import csv
import json
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from isanet_jax.cases.case import StoredCase, read_case
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.errors import DataError
from isanet_jax.files import write_csv


@pytest.fixture
def path(cohort, tmp_path):
    """A copy of a case's file."""
    source = cohort.path(sorted(cohort.cases)[0])
    return shutil.copy(source, tmp_path / source.name)


def test_a_stored_case_is_the_case(path):
    read, stored = read_case(path), StoredCase(path)
    for _ in range(2):
        again = stored.read()
        for name in ("ct", "pet", "label"):
            a, b = getattr(read, name), getattr(again, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert read.meta == stored.meta


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_a_file_that_is_cut_short_while_in_use_is_named(path, length):
    stored = StoredCase(path)
    with open(path, "r+b") as file:
        file.truncate(length)
    with pytest.raises(DataError, match=f"case {path.stem}.*has changed since the program began"):
        stored.read()


def test_a_flipped_bit_is_noticed(path):
    content = bytearray(path.read_bytes())
    content[3000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="the prepared case is damaged"):
        read_case(path)


def test_compressed_cases_are_refused_before_they_are_unpacked(path):
    """A few kilobytes may hold gigabytes of zeros; no case is compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="is compressed, which no case is"):
        read_case(path)


def test_headers_are_parsed_by_one_thread_at_a_time(path, monkeypatch):
    """CPython 3.11's parser, which NumPy uses, fails now and then where two threads are in it."""
    parse, inside, most = np.lib.format.read_array_header_1_0, [], []

    def watched(file):
        inside.append(threading.get_ident())
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return parse(file)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_case, [path] * 16))
    assert len(most) == 16 * 4
    assert max(most) == 1


@pytest.mark.parametrize("case", ["../outside", "/outside", "a/b", "x" * 300, "=1+1"])
def test_a_manifest_cannot_lead_out_of_a_folder(cohort_folder, tmp_path, case):
    for name in ("manifest.json", "folds.json"):
        shutil.copy(cohort_folder / name, tmp_path / name)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["cases"][0]["case"] = case
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="cannot name a file"):
        read_cohort(tmp_path)


def test_text_that_begins_a_formula_is_kept_from_being_one(tmp_path):
    hostile = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
    harmless = ["-1024 to 3071", "-1.5", "+3", "2024-01-01", "a=b", ""]
    rows = [{"text": text, "number": -1.5} for text in (*hostile, *harmless)]
    write_csv(tmp_path / "table.csv", rows)
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["text"] for row in read] == [*(f"'{text}" for text in hostile), *harmless]
    assert {row["number"] for row in read} == {"-1.5"}
