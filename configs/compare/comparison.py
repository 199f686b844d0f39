"""What all comparisons share; each has a file beside this, published.py the paper's figures.

The config of a comparison:
    title, dataset: for the report.
    recipe: `shared`, the same loop for all as in the paper, or `own`, each system's own recipe.
    base: the settings of every run, see configs/hecktor.py.
    methods: name -> label, settings (what differs from base), published (the paper's figures), and
        members (for each network of an ensemble, which share the method's time, what differs in
        it; empty: one network), least_epochs (of an ensemble within cpu_minutes: as many networks,
        the first ones, as have so many epochs each; 0: all), and snapshots (they are of one
        training over restarts; False).
    order: the methods that are run, as the tables list them; shorten it to compare fewer.
    reference: the method that the others are tested against.
    thresholds: whether to score fixed SUV thresholds beside the methods.
    external: NAME=FOLDER of masks that another program made, FOLDER/fold0/CASE.nii.gz and so on, on
        the CT's grid: methods that are scored, and not trained.
    folds, seeds: every method is trained on each pair of them.
    cpu_minutes: of each training, user and system: each method gets as many epochs as fit into it;
        0: as many as its settings say.
    gpu_minutes: the same on a GPU, by the clock.
    curve: label of the x axis of a curve through the methods (Fig. 6); empty: none.

Options follow a colon, as in --config compare/table2:sts,smoke
    hecktor, sts: the cohort (default: hecktor).
    smoke: a size for two CPU cores; it shows that everything works, not the paper's figures.
    own: each system's own recipe (configs/own) where the paper gave all the same loop.
"""

import copy

from ml_collections import ConfigDict

from isanet_jax.configs import hecktor, sts

DATASETS = {"hecktor": hecktor, "sts": sts}  # the paper's
NETWORK_METRICS = ("dsc", "hd", "assd")
ALL_METRICS = ("dsc", "hd", "assd", "rvd_abs", "voe", "recall", "precision")
# Channels of level 1 of the smoke size, a quarter of the system's own.
_SMOKE_WIDTHS = {"iantsen2020": 6, "nnunet": 8, "xie2020": 8, "xie2021": 8}
_SMOKE_WIDTH = 4
# The first two with which no attention network's head starts with negative weights alone. On four
# channels after a ReLU one draw in 16 does, and then says "tumour" late
# (docs/evidence/comparisons.md); on the paper's 16 channels one in 65536.
SMOKE_SEEDS = (2, 3)
_SMOKE_RATE = 10 / 3  # of the paper's: short trainings need larger steps

LABELS = {
    "unet": "U-Net",
    "vnet": "V-Net",
    "se": "U-Net+SE-Net",
    "sk": "U-Net+SK-Net",
    "cbam": "U-Net+CBAM",
    "isa": "U-Net+ISA-Net",
    "nnunet": "nnU-Net",
    "iantsen2020": "Iantsen et al. 2020",
    "xie2020": "Xie et al. 2020",
    "xie2021": "Xie and Peng 2021",
    "an2021": "An et al. 2021",
}


def comparison(title: str, options: str = "") -> ConfigDict:
    """A comparison without methods.

    Args:
        title: of the report.
        options: names separated by commas: a key of `DATASETS` (default: hecktor), `smoke`, `own`.

    Raises:
        ValueError: another option, or two data sets.
    """
    chosen = set(filter(None, options.split(",")))
    of_data = chosen & set(DATASETS)
    if chosen - {*DATASETS, "smoke", "own"} or len(of_data) > 1:
        raise ValueError(
            f"options {options!r}; choose one of {', '.join(DATASETS)}, and of smoke and own, with "
            "commas"
        )
    dataset = next(iter(of_data), "hecktor")
    config = ConfigDict()
    config.title = title
    config.dataset = dataset
    config.size = "smoke" if "smoke" in chosen else "full"
    config.recipe = "own" if "own" in chosen else "shared"
    config.base = DATASETS[dataset].get_config()
    config.methods = ConfigDict()
    config.order = ()
    config.reference = "isa"
    config.thresholds = False
    config.external = ()
    config.folds = (0, 1, 2, 3, 4)
    config.seeds = (0,)
    config.curve = ""
    config.cpu_minutes = 0.0
    config.gpu_minutes = 0.0
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


def add_method(
    config: ConfigDict,
    name: str,
    label: str,
    settings: dict,
    *,
    published=None,
    members=(),
    least_epochs=0,
    snapshots=False,
):
    """Adds a method; at the smoke size its settings shrink with the rest.

    Args:
        config: a comparison.
        name: of the method's folder.
        label: in tables and figures.
        settings: what differs from `config.base`, section by section.
        published: metric -> the paper's figure.
        members: of an ensemble: what differs from `settings`, for each network. With nested
            selection, each chooses its checkpoint on another fold.
        least_epochs: of each of them; where the minutes allow fewer, the last ones are left out.
        snapshots: they are of one training over restarts, each starting from the one before.
    """
    if config.size == "smoke":
        settings = _smoke_settings(settings, config.recipe)
    config.order = (*config.order, name)
    config.methods[name] = ConfigDict(
        {
            "label": label,
            "settings": settings,
            "published": published or {},
            "members": members,
            "least_epochs": least_epochs,
            "snapshots": snapshots,
        }
    )


def papers_loop(name: str) -> dict:
    """A system's settings where the paper trained all by one loop: its optimiser and rate."""
    settings = {"model": {"name": name}}
    if name == "xie2021":
        settings["optimizer"] = {"name": "sgd", "peak_learning_rate": 1e-3}
    elif name in ("iantsen2020", "xie2020", "an2021"):
        settings["optimizer"] = {"peak_learning_rate": 1e-4}
    return settings


def _smoke_settings(settings, recipe):
    settings = copy.deepcopy(settings)
    system = settings.get("model", {}).get("name")
    if system in _SMOKE_WIDTHS:
        settings["model"]["width"] = _SMOKE_WIDTHS[system]
    optimizer = settings.get("optimizer", {})
    if recipe == "shared" and "peak_learning_rate" in optimizer:
        optimizer["peak_learning_rate"] *= _SMOKE_RATE
    settings.pop("train", None)  # as long as the others
    if "data" in settings:
        settings["data"]["patch"] = 24
    return settings
