"""The six readings of ISA's equations.

Eq. 5 can be read as a matrix product, a scaled one or an element-wise one, and the softmax's
weights as summing to one or as having mean one. Beside them, the same backbone with
squeeze-excitation and without attention. Two folds and two seeds; the checkpoint is chosen on a
fold that is not reported.

    isanet compare --config compare/isa_fusion:sts,smoke --workdir runs/readings
"""

from isanet_jax.configs.compare.comparison import SMOKE_SEEDS, add_method, comparison


def get_config(options: str = ""):
    """The comparison; see comparison.py for the options."""
    config = comparison("Readings of ISA's equations", options)
    config.base.selection = "nested"
    config.folds = (0, 1)
    config.seeds = (0, 1)
    if config.size == "smoke":
        config.seeds = SMOKE_SEEDS
        config.base.train.epochs = config.base.optimizer.restart_epochs = 15  # 32 cells: hours
    config.reference = "unet"
    for fusion in ("matmul", "matmul_scaled", "product"):
        for scale in ("sum", "mean"):
            settings = {"model": {"fusion": fusion, "weight_scale": scale}}
            add_method(config, f"{fusion}-{scale}", f"ISA {fusion}, {scale}", settings)
    for name, label in (("unet", "no attention"), ("se", "squeeze-excitation")):
        add_method(config, name, label, {"model": {"name": name}})
    return config
