r"""The comparisons that settled this project's choices: one table.

    isanet compare --config compare/experiments:isa_fusion,sts,smoke --workdir runs/readings

After the name come the options of comparison.py. docs/evidence has what each found, and how its
cases are prepared. `nodes` is set beside nnU-Net by `python -m benchmarks.nnunet`. `finetune`
starts from the model that --config.methods.started.settings.init names; the column `fold` of its
table of cases says who is tested on (0), who chooses the checkpoint (1), and who is trained on (2).
"""

import copy
import dataclasses

from isanet_jax.configs.compare.comparison import SMOKE_SEEDS, add_method, comparison
from isanet_jax.configs.own.nnunet import SHARED
from ml_collections import ConfigDict

from isanet_jax.configs import hecktor22, strong, sts_mr


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a comparison is made of.

    `methods` has, by name, a label, what differs from the base, and options of `add_method`.
    `settings` and, at the size for two CPU cores, `smoke` are laid over the whole comparison, as
    it is written in comparison.py. `sizes` are those that there are, `base` makes the settings of
    every run at the full size (None: the dataset's).
    """

    title: str
    reference: str
    methods: dict
    settings: dict = dataclasses.field(default_factory=dict)
    smoke: dict = dataclasses.field(default_factory=dict)
    datasets: tuple[str, ...] = ("sts",)
    sizes: tuple[str, ...] = ("full", "smoke")
    base: object = None


_TWO_FOLDS = {"folds": (0, 1), "seeds": (0, 1)}
_TWO_SMOKE_SEEDS = {"folds": (0, 1), "seeds": SMOKE_SEEDS}
_NESTED = {"base": {"selection": "nested"}}

# nnU-Net's network, narrow, with optimiser and augmentation of the middle of the field.
START = {
    "model": {"name": "nnunet", "width": 8, "deep_supervision": True},
    "loss": {"name": "dice_ce"},
    "augment": {"mixup_probability": 0.0, "rotation_degrees": 30.0},
    "optimizer": {
        "name": "adamw",
        "schedule": "cosine",
        "peak_learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "clip_norm": 12.0,
        "warmup_epochs": 1,
    },
    "train": {"batch": 2},
}
_SGD = {"schedule": "poly", "warmup_epochs": 0, "weight_decay": 3e-5}
_INTENSITY = {
    name: value
    for name, value in SHARED["augment"].items()
    if name not in ("mixup_probability", "rotation_probability", "rotation_degrees")
}
_ISA = {"name": "isa", "width": 8, "deep_supervision": False}
# One change of START at a time, the same processor time: what configs/strong.py comes from.
_CANDIDATES = {
    "start": ("start", {}),
    "narrow": ("width 4", {"model": {"width": 4}}),
    "wide": ("width 16", {"model": {"width": 16}}),
    "batch1": ("batch 1", {"train": {"batch": 1}}),
    "batch4": ("batch 4", {"train": {"batch": 4}}),
    "flat": ("no deep supervision", {"model": {"deep_supervision": False}}),
    "sgd": ("SGD, poly", {"optimizer": _SGD | {"name": "sgd", "peak_learning_rate": 1e-2}}),
    "slow": ("learning rate 5e-4", {"optimizer": {"peak_learning_rate": 5e-4}}),
    "fast": ("learning rate 6e-3", {"optimizer": {"peak_learning_rate": 6e-3}}),
    "average": ("average of weights, 0.98", {"optimizer": {"average": 0.98}}),
    "prior": ("prior 0.05", {"model": {"prior": 0.05}}),
    "focal": ("Dice + focal loss", {"loss": {"name": "dice_focal"}}),
    "batch_dice": ("batch Dice", {"loss": {"batch_dice": True}}),
    "soft": ("CT in the soft-tissue window", {"data": {"ct_window": "soft"}}),
    "both": ("CT in the soft-tissue window, too", {"data": {"ct_window": "both"}}),
    "suv": ("PET as SUV over 5", {"data": {"pet_scale": "suv"}}),
    "no_turns": ("mirrored only", {"augment": {"rotation_probability": 0.0}}),
    "mixup": ("mixup, 0.2", {"augment": {"mixup_probability": 0.2}}),
    "scaling": ("scaling, 0.2", {"augment": {"scaling_probability": 0.2}}),
    "crop": ("field cut on all sides, 0.5", {"augment": {"crop_probability": 0.5}}),
    "intensity": ("nnU-Net's augmentation", {"augment": _INTENSITY}),
    "moved": ("misalignment, 0.3", {"augment": {"misalignment_probability": 0.3}}),
    "mirror": ("mirrored prediction", {"predict": {"mirror": True}}),
    "no_selection": ("no fold to choose by, last checkpoint", {"selection": "none"}),
}
# These need more time: --config.cpu_minutes=6 --config.order="('start','snapshots')"
_LONGER = {
    "seeds_and_folds": ("four networks, each chosen on another fold", {}, {"members": ({},) * 4}),
    "snapshots": ("three snapshots over restarts", {}, {"members": ({},) * 3, "snapshots": True}),
    "isa": ("ISA-Net", {"model": _ISA}),
    "isa_gates": ("ISA-Net, weights by sigmoid", {"model": _ISA | {"weight_scale": "sigmoid"}}),
}


def _nodes_recipe():
    """`strong`, half as wide, with more steps in the time."""
    recipe = copy.deepcopy(strong.RECIPE)
    recipe["model"]["width"] = 8
    recipe["train"]["batch"] = 1
    recipe["loss"]["batch_dice"] = False
    return recipe


def _grids(size, spacing_mm):
    """The settings of both methods of `fits`: the field resized, and patches of one voxel size."""
    resized = {"cases": f"cases/sts{size}", "fit": "resize", "size": size}
    whole = {"cases": f"cases/sts_{spacing_mm:g}mm", "fit": "whole", "spacing_mm": spacing_mm}
    return {
        "base": {"data": {"size": size}, "train": {"steps_per_epoch": 0}},  # each case once
        "methods": {
            "isa": {"label": f"resized to {size}³", "settings": {"data": resized}},
            "whole": {
                "label": f"{spacing_mm:g} mm, {size}³ patches",
                "settings": {"data": whole | {"patch": size}},
            },
        },
    }


EXPERIMENTS = {
    # Eq. 5's product, and what the softmax's weights sum to.
    "isa_fusion": Experiment(
        "Readings of ISA's equations",
        "unet",
        {
            f"{fusion}-{scale}": (
                f"ISA {fusion}, {scale}",
                {"model": {"fusion": fusion, "weight_scale": scale}},
            )
            for fusion in ("matmul", "matmul_scaled", "product")
            for scale in ("sum", "mean")
        }
        | {
            "unet": ("no attention", {"model": {"name": "unet"}}),
            "se": ("squeeze-excitation", {"model": {"name": "se"}}),
        },
        settings=_TWO_FOLDS | _NESTED,
        smoke=_TWO_SMOKE_SEEDS
        | {"base": {"train": {"epochs": 15}, "optimizer": {"restart_epochs": 15}}},
        datasets=("hecktor", "sts"),
    ),
    "isa_text": Experiment(
        "Two readings of the paper: code and text",
        "isa_code",
        {
            "isa_code": ("ISA, authors' code", {"model": {"name": "isa", "reading": "code"}}),
            "isa_text": ("ISA, paper's text", {"model": {"name": "isa", "reading": "text"}}),
        },
        settings=_TWO_FOLDS,
        smoke=_TWO_SMOKE_SEEDS,
        datasets=("hecktor", "sts"),
    ),
    "fits": Experiment(
        "Whole cases in patches, and resized",
        "isa",
        {"isa": ("", {}), "whole": ("", {})},
        settings=_grids(96, 2.0),
        smoke=_grids(48, 4.0) | {"folds": (0, 1)},
    ),
    "sts_mr": Experiment(
        "T1-weighted MRI beside PET/CT",
        "isa",
        {
            "t1": ("T1", {"model": {"modalities": ("mr_t1",)}}),
            "pet_ct": ("PET+CT", {"model": {"modalities": ("ct", "pet")}}),
            "isa": ("PET+CT+T1", {"model": {"modalities": ("ct", "pet", "mr_t1")}}),
        },
        smoke=_TWO_SMOKE_SEEDS
        | {"base": {"data": {"cases": "cases/sts_mr32", "images": ("ct", "pet", "mr_t1")}}},
        base=sts_mr.get_config,
    ),
    "search": Experiment(
        "The search for a recipe",
        "start",
        _CANDIDATES | _LONGER,
        settings={
            "size": "32³",
            "cpu_minutes": 1.25,
            "order": tuple(_CANDIDATES),
            "base": {"data": {"cases": "cases/sts32", "size": 32}, "selection": "nested"} | START,
        },
        sizes=("full",),
    ),
    "finetune": Experiment(
        "Starting from a trained network",
        "drawn",
        {
            "drawn": ("drawn parameters", {}),
            "started": ("a trained network's", {"init": "model.isanet"}),
        },
        settings={
            "size": "32³",
            "folds": (0,),
            "seeds": (0, 1, 2),
            "base": START
            | {
                "data": {"size": 32},
                "selection": "nested",
                "train": {"batch": 2, "epochs": 60, "steps_per_epoch": 10, "validate_every": 2},
            },
        },
        sizes=("full",),
    ),
    # Primary tumours and lymph nodes, as in HECKTOR 2022: the networks improve for 10 minutes each.
    "nodes": Experiment(
        "A tumour and its nodes, the same processor time",
        "strong",
        {"strong": ("strong", _nodes_recipe(), {"members": ({},) * 2})},
        settings={
            "dataset": "phantoms",
            "size": "48³",
            "cpu_minutes": 20.0,
            "base": {
                # Muscle and tumours differ by 40 HU, which the wide window of 2,048 does not show.
                "data": {
                    "cases": "cases/nodes48",
                    "size": 48,
                    "spacing_mm": 4.0,
                    "ct_window": "cohort",
                },
                "selection": "nested",
            },
        },
        sizes=("full",),
        base=hecktor22.get_config,
    ),
}


def get_config(options: str = "") -> ConfigDict:
    """An experiment of the table, by its name; options of comparison.py may follow.

    Raises:
        ValueError: no such experiment, or a cohort or size that it is not for.
    """
    name, _, rest = options.partition(",")
    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    one = EXPERIMENTS[name]
    given = rest or one.datasets[0]
    config = comparison(one.title, given)
    if config.dataset not in one.datasets or config.size not in one.sizes:
        raise ValueError(
            f"options {rest!r}; {name} is for {' and '.join(one.datasets)}, "
            f"{' and '.join(one.sizes)} size"
        )
    is_smoke = config.size == "smoke"
    if one.base and not is_smoke:
        config.base = one.base()
    for method, (label, settings, *more) in one.methods.items():
        add_method(config, method, label, copy.deepcopy(settings), **(more[0] if more else {}))
    config.reference = one.reference
    for changes in (one.settings, one.smoke if is_smoke else {}):
        _lay_over(config, changes)
    return config


def _lay_over(config, changes):
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(name), ConfigDict) and config[name]:
            _lay_over(config[name], value)
        else:
            config[name] = ConfigDict(copy.deepcopy(value)) if isinstance(value, dict) else value
