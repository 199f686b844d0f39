"""What the two systems built on nnU-Net share: nnU-Net's recipe. Not a system by itself."""

from isanet_jax.configs import hecktor


def get_config():
    """The settings of configs/hecktor.py with nnU-Net's patches, loss, optimiser and prediction.

    Dice + cross-entropy on 128^3 patches, a third of them on the tumour, batch 2, deep
    supervision, SGD with Nesterov momentum and a poly schedule over 1000 epochs of 250 steps; a
    sliding window with half overlap and Gaussian weights, and the mean over the mirror images.
    """
    config = hecktor.get_config()
    config.data.patch = 128
    config.augment.mixup_probability = 0.0
    config.model.deep_supervision = True
    # The focal loss with gamma 0 and alpha 0.5, twice, is the cross-entropy.
    config.loss.gamma = 0.0
    config.loss.focal_weight = 2.0
    config.optimizer.name = "sgd"
    config.optimizer.schedule = "poly"
    config.optimizer.peak_learning_rate = 1e-2
    config.optimizer.weight_decay = 3e-5
    config.optimizer.clip_norm = 12.0
    config.train.batch = 2
    config.train.epochs = 1000
    config.train.steps_per_epoch = 250
    config.train.validate_every = 10
    config.predict.mirror = True
    return config
