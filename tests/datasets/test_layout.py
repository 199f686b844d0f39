"""A new layout is one file."""

import pkgutil

import pytest

from isanet_jax import datasets
from isanet_jax.cases.cohort import read_cohort
from isanet_jax.cli import prepare
from isanet_jax.datasets.phantom import write_phantoms
from isanet_jax.errors import DataError

MINE = """
from isanet_jax.datasets.layout import Dataset, Found, Scan


def read(source, options):
    cases = sorted(p for p in source.iterdir() if p.is_dir())
    scans = []
    for case in cases:
        images = {name: case / f"{name}.nii.gz" for name in options.images}
        scans.append(Scan(case.name, images, case / "label.nii.gz", case.name))
    return Found(scans)


DATASET = Dataset(
    "mine", "a folder per case", lambda source: (source / "mine.txt").exists(), read, fit="crop",
)
"""


def test_a_new_layout_is_one_file(tmp_path, monkeypatch):
    """Found, recognised, read and prepared, without a line anywhere else."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("ISANET_EXTENSIONS", str(tmp_path / "mine.py"))
    monkeypatch.delattr(datasets.DATASETS, "data", raising=False)  # what was found before
    try:
        source = tmp_path / "scans"
        write_phantoms(source, cases=4, seed=1)
        (source / "cases.csv").unlink()
        (source / "mine.txt").touch()
        assert datasets.recognise(source) == "mine"
        words = ["--size", "16", "--spacing-mm", "12", "--folds", "2", "--workers", "1"]
        prepare.main(["mine", "--source", str(source), "--output", str(tmp_path / "cases"), *words])
        cohort = read_cohort(tmp_path / "cases")
        assert (len(cohort.cases), cohort.settings["fit"]) == (4, "crop")
    finally:
        datasets.DATASETS.__dict__.pop("data", None)


def test_every_file_of_the_folder_is_a_layout_or_known_to_be_none():
    """So that a misspelt DATASET is noticed."""
    files = {module.name for module in pkgutil.iter_modules(datasets.__path__)}
    assert files - datasets.DATASETS.keys() == {"download", "layout", "phantom", "phantom_body"}


def test_what_is_not_recognised_says_what_would_be(tmp_path):
    with pytest.raises(DataError, match="no layout that is known.*HECKTOR.*table"):
        datasets.recognise(tmp_path)
