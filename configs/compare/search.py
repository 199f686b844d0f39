"""The search that configs/strong.py comes from: one change at a time, the same processor time.

    isanet prepare sts --source DIR --output cases/sts32 --size 32
    isanet compare --config compare/search --workdir runs/search

Five folds, each with a checkpoint chosen on the next ("nested"), which is what candidates are
chosen by (but the one without selection); the test folds are looked at once, in the table.
docs/evidence/search.md has what came of it. `--config.seeds="(0,1)"` and
`--config.order="('start','average')"` repeat what is to be kept with another seed.
"""

import copy

from isanet_jax.configs.compare.comparison import add_method, comparison
from isanet_jax.configs.own.nnunet import SHARED
from ml_collections import ConfigDict

CPU_MINUTES = 1.25
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
# name -> label, what it changes of START.
CANDIDATES = {
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
# Several networks within the same time; they need more of it: --config.cpu_minutes=6
# --config.order="('start','seeds_and_folds','snapshots')"
ENSEMBLES = {
    "seeds_and_folds": ("four networks, each chosen on another fold", {"members": ({},) * 4}),
    "snapshots": ("three snapshots over restarts", {"members": ({},) * 3, "snapshots": True}),
}

# Networks that need more time than the search gives: --config.order="('start','isa','isa_gates')"
# --config.cpu_minutes=6. benchmarks/attention.py then says what their attention is worth.
_ISA = {"name": "isa", "width": 8, "deep_supervision": False}
WITH_ATTENTION = {
    "isa": ("ISA-Net", {"model": _ISA}),
    "isa_gates": ("ISA-Net, weights by sigmoid", {"model": _ISA | {"weight_scale": "sigmoid"}}),
}


def get_config(options: str = "sts") -> ConfigDict:
    """All candidates, on 32^3 over the whole field."""
    config = comparison("The search for a recipe", options)
    if config.dataset != "sts" or config.size != "full":
        raise ValueError(f"options {options!r}; it is for sts, in its one size")
    config.size = "32³"
    config.cpu_minutes = CPU_MINUTES
    config.reference = "start"
    config.base.data.cases = "cases/sts32"
    config.base.data.size = 32
    config.base.selection = "nested"
    for section, settings in START.items():
        config.base[section].update(copy.deepcopy(settings))
    for name, (label, settings) in CANDIDATES.items():
        add_method(config, name, label, copy.deepcopy(settings))
    candidates = config.order
    for name, (label, members) in ENSEMBLES.items():
        add_method(config, name, label, {}, **members)
    for name, (label, settings) in WITH_ATTENTION.items():
        add_method(config, name, label, copy.deepcopy(settings))
    config.order = candidates
    return config
