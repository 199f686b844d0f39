"""What the two systems built on nnU-Net share: nnU-Net's recipe. Not a system by itself.

Dice + cross-entropy on 128^3 patches, a third of them on the tumour, batch 2, deep supervision, SGD
with Nesterov momentum and a poly schedule over 1000 epochs of 250 steps; a sliding window with half
overlap and Gaussian weights, and the mean over the mirror images.
"""

RECIPE = {
    "data": {"patch": 128},
    "augment": {"mixup_probability": 0.0},
    "model": {"deep_supervision": True},
    "loss": {"name": "dice_ce"},
    "optimizer": {
        "name": "sgd",
        "schedule": "poly",
        "peak_learning_rate": 1e-2,
        "weight_decay": 3e-5,
        "clip_norm": 12.0,
    },
    "train": {"batch": 2, "epochs": 1000, "steps_per_epoch": 250, "validate_every": 10},
    "predict": {"mirror": True},
}
