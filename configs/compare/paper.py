"""The paper's comparisons (Huang et al. 2022): Tables 1-3 and Fig. 6. Each has a file beside this.

The config of a comparison:
    title, dataset: for the report.
    recipe: `paper`, the same loop for all, or `own`, each system's own recipe.
    base: the settings of every run, see configs/hecktor.py.
    methods: name -> label, settings (what differs from base) and published (the paper's figures).
    order: the methods that are run, as the tables list them; shorten it to compare fewer.
    reference: the method that the others are tested against.
    thresholds: whether to score fixed SUV thresholds beside the methods.
    folds, seeds: every method is trained on each pair of them.
    curve: label of the x axis of a curve through the methods (Fig. 6); empty: none.

Options follow a colon, as in --config configs/compare/table2_sts.py:smoke
    smoke: a size for two CPU cores; it shows that everything works, not the paper's figures.
    own: each system's own recipe (configs/own) where the paper gave all the same loop.
"""

import copy
import importlib

from isanet_jax.configs.compare import published
from isanet_jax.configs.recipe import DATASETS
from ml_collections import ConfigDict

OWN = ("iantsen2020", "xie2020", "xie2021", "an2021")  # systems with a file in configs/own
_NETWORK_METRICS = ("dsc", "hd", "assd")
_ALL_METRICS = ("dsc", "hd", "assd", "rvd_abs", "voe", "recall", "precision")
# Channels of level 1 of the smoke size, a quarter of the system's own.
_SMOKE_WIDTHS = {"iantsen2020": 6, "xie2020": 8, "xie2021": 8}
_SMOKE_WIDTH = 4
# The first two with which no attention network's head starts with negative weights alone. On four
# channels after a ReLU one draw in 16 does, and then says "tumour" late (docs/comparisons);
# on the paper's 16 channels one in 65536.
SMOKE_SEEDS = (2, 3)
_SMOKE_RATE = 10 / 3  # of the paper's: short trainings need larger steps

_LABELS = {
    "unet": "U-Net",
    "vnet": "V-Net",
    "se": "U-Net+SE-Net",
    "sk": "U-Net+SK-Net",
    "cbam": "U-Net+CBAM",
    "isa": "U-Net+ISA-Net",
    "iantsen2020": "Iantsen et al. 2020",
    "xie2020": "Xie et al. 2020",
    "xie2021": "Xie and Peng 2021",
    "an2021": "An et al. 2021",
}


def table1(dataset: str, options: str = "") -> ConfigDict:
    """ISA-Net on CT, on PET and on both."""
    inputs = {"ct": ("CT", ("ct",)), "pet": ("PET", ("pet",)), "isa": ("PET+CT", ("ct", "pet"))}
    config = comparison("Table 1: input modalities", dataset, options)
    for name, (label, modalities) in inputs.items():
        printed = dict(zip(_NETWORK_METRICS, published.TABLE_1[dataset][name], strict=True))
        add_method(config, name, label, {"model": {"modalities": modalities}}, published=printed)
    return config


def table2(dataset: str, options: str = "") -> ConfigDict:
    """The attention modules on one backbone, and V-Net."""
    config = comparison("Table 2: attention modules", dataset, options)
    config.thresholds = True
    for name, figures in published.TABLE_2[dataset].items():
        printed = dict(zip(_ALL_METRICS, figures, strict=True))
        add_method(config, name, _LABELS[name], {"model": {"name": name}}, published=printed)
    return config


def table3(dataset: str, options: str = "") -> ConfigDict:
    """The systems of the HECKTOR challenges; Adam at 1e-4, xie2021 with SGD at 1e-3."""
    config = comparison("Table 3: systems of the HECKTOR challenges", dataset, options)
    for name, figures in published.TABLE_3[dataset].items():
        printed = dict(zip(_NETWORK_METRICS, figures, strict=True))
        settings = {"model": {"name": name}}
        if config.recipe == "own" and name in OWN:
            settings = _own_recipe(name)
        elif name == "xie2021":
            settings["optimizer"] = {"name": "sgd", "peak_learning_rate": 1e-3}
        elif name != "isa":
            settings["optimizer"] = {"peak_learning_rate": 1e-4}
        add_method(config, name, _LABELS[name], settings, published=printed)
    return config


def fig6(dataset: str, options: str = "") -> ConfigDict:
    """The weights of PET and CT in the decoder's fusion, alpha = w_PET / w_CT."""
    weights = {  # (CT, PET)
        "alpha_0": ("0", (1.0, 0.0)),
        "alpha_half": ("0.5", (1.0, 0.5)),
        "isa": ("1", (1.0, 1.0)),
        "alpha_2": ("2", (0.5, 1.0)),
        "alpha_inf": ("∞", (0.0, 1.0)),
    }
    config = comparison("Fig. 6: weights of PET and CT in the fusion", dataset, options)
    config.curve = "α = w_PET / w_CT"
    for name, (label, pair) in weights.items():
        add_method(config, name, f"α = {label}", {"model": {"fusion_weights": pair}})
    return config


def comparison(title: str, dataset: str, options: str = "") -> ConfigDict:
    """A comparison without methods.

    Args:
        title: of the report.
        dataset: see `DATASETS`.
        options: names separated by commas, of `smoke` and `own`.
    """
    chosen = set(filter(None, options.split(",")))
    if chosen - {"smoke", "own"}:
        raise ValueError(f"unknown options {options!r}; choose of smoke and own, with a comma")
    config = ConfigDict()
    config.title = title
    config.dataset = dataset
    config.size = "smoke" if "smoke" in chosen else "paper"
    config.recipe = "own" if "own" in chosen else "paper"
    config.base = DATASETS[dataset].get_config()
    config.methods = ConfigDict()
    config.order = ()
    config.reference = "isa"
    config.thresholds = False
    config.folds = (0, 1, 2, 3, 4)
    config.seeds = (0,)
    config.curve = ""
    if config.size == "smoke":
        _make_smoke(config.base, dataset)
        config.seeds = SMOKE_SEEDS[:1]
    return config


def _make_smoke(base, dataset):
    """32^3 over the same field of view, and as many steps for either cohort."""
    base.data.cases = f"cases/{dataset}32"
    base.data.size = 32
    base.data.spacing_mm = 4.5  # of hecktor; sts is resized
    base.model.width = _SMOKE_WIDTH
    base.train.epochs = {"sts": 25, "hecktor": 5}[dataset]
    base.train.validate_every = {"sts": 5, "hecktor": 1}[dataset]
    base.optimizer.restart_epochs = base.train.epochs
    base.optimizer.peak_learning_rate *= _SMOKE_RATE


def add_method(config: ConfigDict, name: str, label: str, settings: dict, *, published=None):
    """Adds a method; at the smoke size its settings shrink with the rest.

    Args:
        config: a comparison.
        name: of the method's folder.
        label: in tables and figures.
        settings: what differs from `config.base`, section by section.
        published: metric -> the paper's figure.
    """
    if config.size == "smoke":
        settings = _smoke_settings(settings, config.recipe)
    config.order = (*config.order, name)
    config.methods[name] = ConfigDict(
        {"label": label, "settings": settings, "published": published or {}}
    )


def _smoke_settings(settings, recipe):
    settings = copy.deepcopy(settings)
    system = settings.get("model", {}).get("name")
    if system in _SMOKE_WIDTHS:
        settings["model"]["width"] = _SMOKE_WIDTHS[system]
    optimizer = settings.get("optimizer", {})
    if recipe == "paper" and "peak_learning_rate" in optimizer:
        optimizer["peak_learning_rate"] *= _SMOKE_RATE
    settings.pop("train", None)  # as long as the others
    if "data" in settings:
        settings["data"]["patch"] = 24
    return settings


def _own_recipe(name):
    """What a system's own recipe changes in the settings."""
    return copy.deepcopy(importlib.import_module(f"isanet_jax.configs.own.{name}").RECIPE)
