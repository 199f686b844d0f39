"""Iantsen et al., winner of HECKTOR 2020, by its own recipe: residual U-Net with SE-Norm.

Trained on four leave-one-centre-out and four random splits; the mean of the eight probabilities is
the prediction. Epochs, batch and learning rates are those of the public configuration
(github.com/iantsen/hecktor, config/model_train.yaml).

    python train.py --config configs/own/iantsen2020.py --workdir runs/i0 --config.fold_by=centre
    python train.py --config configs/own/iantsen2020.py --workdir runs/i4 --config.fold=0
    python predict.py --workdir runs/i0 runs/i4 ... --table scans.csv --output masks
"""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with the system's own network, loss and optimiser."""
    config = hecktor.get_config()
    config.model.name = "iantsen2020"
    # Dice with squared denominator, plus the focal loss without alpha: 2 x alpha 0.5.
    config.loss.dice_squared = True
    config.loss.dice_smooth = 1.0
    config.loss.focal_weight = 2.0
    config.optimizer.peak_learning_rate = 1e-3
    config.optimizer.floor_learning_rate = 1e-5
    config.train.batch = 1
    config.train.epochs = 300
    config.augment.mixup_probability = 0.0
    return config
