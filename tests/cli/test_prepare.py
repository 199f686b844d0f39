"""The arguments of `prepare`, as the help says them."""

import os

import pytest

from isanet_jax.cli import predict
from isanet_jax.cli.prepare import parser
from isanet_jax.datasets import DATASETS


def test_what_must_be_given(capsys):
    for words in (
        ["hecktor", "--output", "b"],
        ["auto", "--output", "b"],
        ["table", "--source", "a"],
    ):
        with pytest.raises(SystemExit):
            parser().parse_args(words)
        assert "required: --" in capsys.readouterr().err
    parser().parse_args(["sts", "--output", "b"])  # --download needs no source
    with pytest.raises(SystemExit):
        predict.parser().parse_args(["--output", "m.nii.gz"])
    assert "required: --model/--workdir" in capsys.readouterr().err


def test_the_defaults_are_those_of_the_help():
    for name in DATASETS:
        words = [name, "--source", "a", "--output", "b", "--workers", "1"]
        given = vars(parser().parse_args(words))
        assert given == {
            "layout": name, "source": "a", "output": "b", "workers": 1, "size": [144], "folds": 5,
            "seed": 0, "fit": None, "spacing_mm": [1.0], "skip_bad": False, "nifti": False,
            "refold": False, "part": None, "cluster": None,
            "label_values": None, "target": None, "classes": None, "ignore": None, "codes": None,
            "images": None, "roi": None, "unite": False, "series": [],
            "keep_identity": False, **({"download": False, "url": None} if name == "sts" else {}),
        }  # fmt: skip
    given = vars(parser().parse_args(["phantom", "--output", "b"]))
    assert (given["cases"], given["size"], given["folds"], given["seed"]) == (24, [48], 5, 0)


def test_processes_are_as_many_as_the_job_has_cores(monkeypatch):
    """Of a cluster's job: the node's cores would each take a scan's memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert parser().parse_args(["phantom", "--output", "x"]).workers == 3
