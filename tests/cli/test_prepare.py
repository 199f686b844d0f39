"""The arguments of `prepare`, as the help says them."""

from isanet_jax.cli.prepare import parser
from isanet_jax.datasets import DATASETS


def test_the_defaults_are_those_of_the_help():
    for name in DATASETS:
        words = [name, "--source", "a", "--output", "b", "--workers", "1"]
        given = vars(parser().parse_args(words))
        assert given == {
            "layout": name, "source": "a", "output": "b", "workers": 1, "size": 144, "folds": 5,
            "seed": 0, "fit": None, "spacing_mm": 1.0, "skip_bad": False, "nifti": False,
            "label_values": None, "target": None, "roi": None, "unite": False, "series": [],
            "keep_identity": False, **({"download": False, "url": None} if name == "sts" else {}),
        }  # fmt: skip
    given = vars(parser().parse_args(["phantom", "--output", "b"]))
    assert (given["cases"], given["size"], given["folds"], given["seed"]) == (24, 48, 5, 0)
