"""ISA-Net on HECKTOR, as in the paper (Huang et al. 2022): 1 mm, 144^3, cropped by the boxes.

The paper reports a mean DSC of 0.8076 over five folds (Table 2). Not reproduced yet: the data is
gated, and a run takes a GPU. Prepare the data, then train one of the five folds:

    isanet prepare hecktor --source DIR --output cases/hecktor
    isanet train --config hecktor --workdir runs/h0 --config.fold=0
    isanet eval --workdir runs/h0
"""

from ml_collections import ConfigDict

from isanet_jax.settings import defaults


def get_config() -> ConfigDict:
    """Every setting with its default, which is the paper's; override with --config.name=value."""
    return defaults()
