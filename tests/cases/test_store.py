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


def relabelled(path, name, **changes):
    """Changes what a case says of one of its arrays."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[name] = json.dumps(json.loads(members[name]) | changes).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def chunks(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@pytest.mark.parametrize(
    ("array", "changes", "message"),
    [
        ("ct", {"chunk_grid": chunks(30_000, 30_000, 30_000)}, "ct has other chunks or codecs"),
        ("label", {"chunk_grid": chunks(8, 8, 8)}, "label has other chunks"),
        ("pet", {"shape": [30_000] * 3}, "pet has the shape"),
        ("label_reference", {"shape": [16, 16, 17]}, "label_reference has the shape"),
        ("samples/tumour", {"shape": [10**9, 3]}, "samples/tumour has the shape"),
        ("samples/tumour", {"shape": [3]}, "samples/tumour has the shape"),
        ("ct", {"shape": "x"}, "damaged"),
        ("ct", {"shape": [16.0, 16, None]}, "damaged"),
        ("ct", {"data_type": "complex64"}, "type complex64"),
        ("ct", {"data_type": "nothing"}, "damaged"),
        ("ct", {"codecs": [{"name": "bytes"}, {"name": "gzip"}]}, "ct has other chunks or codecs"),
        ("ct", {"codecs": 5}, "damaged"),
    ],
)
def test_what_an_array_says_of_itself_is_checked_before_it_is_read(path, array, changes, message):
    relabelled(path, f"{array}/zarr.json", **changes)
    with pytest.raises(DataError, match=message):
        StoredCase(path)


@pytest.mark.parametrize("shape", [[2**20] * 3, [0, 1, 1], "16", [16, 16], [16, 16, True], None])
@pytest.mark.parametrize("name", ["shape", "reference_shape"])
def test_what_a_case_says_of_its_size_is_checked(path, name, shape):
    with zipfile.ZipFile(path) as archive:
        attributes = json.loads(archive.read("zarr.json"))["attributes"]
    relabelled(path, "zarr.json", attributes=attributes | {name: shape})
    with pytest.raises(DataError, match="damaged"):
        StoredCase(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["cases"][0].update(shape=[16, 16, 0]),
        lambda m: m["cases"][0].pop("sources"),
        lambda m: m["cases"][0].update(sources={}),
        lambda m: m["cases"][0].update(patient=5),
        lambda m: m["cases"][0].update(spacing_mm="x"),
        lambda m: m["cases"].append(5),
        lambda m: m.update(cases=None),
        lambda m: m.update(settings={"size": 16}),
        lambda m: m.pop("settings"),
    ],
)
def test_a_damaged_manifest_is_named(cohort_folder, tmp_path, change):
    for file in cohort_folder.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json: is damaged.*prepare again: it keeps"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"fold_of": 5}', '{"fold_of": {"phantom_000": "x"}}'])
def test_damaged_folds_are_named_and_not_dealt_anew_in_silence(cohort_folder, tmp_path, text):
    for file in cohort_folder.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(DataError, match=r"folds\.json: is damaged.*--refold, or put"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("attributes", [[], 5, None, {"format": 3}, {"format": 3, "images": 5}])
def test_what_a_case_says_of_itself_may_be_anything(path, attributes):
    relabelled(path, "zarr.json", attributes=attributes)
    with pytest.raises(DataError, match=r"damaged|format None"):
        StoredCase(path)
