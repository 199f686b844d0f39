"""Case files, tables and manifests: what is damaged, hostile, or read by many threads at once."""

import csv
import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from isanet_jax.cases.case import StoredCase, case_of, read_case
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
        pairs = [(read.images[name], again.images[name]) for name in ("ct", "pet")]
        for a, b in [*pairs, (read.label, again.label)]:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert read.meta == stored.meta


def test_a_part_of_a_case_is_read_alone(path):
    whole, part = read_case(path), StoredCase(path, ["pet"]).read((1, 2, 3), (9, 10, 16))
    np.testing.assert_array_equal(part.images["pet"], whole.images["pet"][1:9, 2:10, 3:16])
    np.testing.assert_array_equal(part.label, whole.label[1:9, 2:10, 3:16])
    assert part.images.keys() == {"pet"}


def test_a_case_that_lacks_an_image_is_named(path):
    with pytest.raises(DataError, match=f"case {path.name.split('.')[0]}.*has no image t1"):
        StoredCase(path, ["ct", "t1"])


def test_a_case_of_an_older_version_is_refused_with_what_to_do(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    group = json.loads(members["zarr.json"])
    group["attributes"]["format"] = 1
    members["zarr.json"] = json.dumps(group).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="format 1.*run the prepare command that made them again"):
        read_case(path)


def test_a_cohort_of_an_older_version_is_refused_with_the_command_that_makes_it(
    cohort_folder, tmp_path
):
    shutil.copy(cohort_folder / "folds.json", tmp_path / "folds.json")
    manifest = json.loads((cohort_folder / "manifest.json").read_text())
    old = {"size": 144, "fit": "crop", "spacing_mm": 1.5, "label_values": [1, 2]}
    for layout, words in (
        ("hecktor", "hecktor --source DIR --output NEW --size 144 --fit crop --spacing-mm 1.5 "
                    "--label-values 1,2"),
        ("phantom", "phantom --output NEW --cases 6 --size 144"),
    ):  # fmt: skip
        changed = manifest | {"format": 1, "layout": layout, "settings": old}
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=f"format 1.*Recreate them with.*prepare {words}"):
            read_cohort(tmp_path)


@pytest.mark.parametrize("lost", ["ct/c/0/0/0", "label/c/0/0/0", "pet/zarr.json"])
def test_a_chunk_that_is_missing_is_damage_and_not_zeros(path, lost):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != lost}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="damaged"):
        read_case(path)


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_a_file_that_is_cut_short_while_in_use_is_named(path, length):
    stored = StoredCase(path)
    with open(path, "r+b") as file:
        file.truncate(length)
    with pytest.raises(
        DataError, match=f"case {case_of(path)}.*has changed since the program began"
    ):
        stored.read()


def test_a_flipped_bit_is_noticed(path):
    content = bytearray(path.read_bytes())
    content[3000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="the prepared case is damaged"):
        read_case(path)


def test_many_threads_read_one_case_at_a_time(path):
    whole, stored = read_case(path), StoredCase(path)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: stored.read((0, 0, 0), (8, 16, 16)), range(32)):
            np.testing.assert_array_equal(found.images["ct"], whole.images["ct"][:8])


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
