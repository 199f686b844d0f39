"""ISA-Net for PET/CT tumour segmentation in JAX (Huang et al. 2022).

The sub-packages follow the data's one way, and each imports only from those before it:
`dicom` -> `datasets` -> `cases` -> `settings` -> `pipeline` -> `distributed` -> `network` ->
`losses` -> `metrics` -> `runs` -> `training` -> `planning` -> `prediction` -> `export` -> `node` ->
`evaluation` -> `comparison` -> `api`, `cli`. The names below are the Python interface; importing
the package takes no time and changes nothing.
"""

import importlib

__version__ = "0.2.0"

_MODULE_OF = {
    **dict.fromkeys(
        ("get_config", "prepare", "build", "train", "evaluate", "load"), "isanet_jax.api"
    ),
    "case_metrics": "isanet_jax.metrics.segmentation",
    **dict.fromkeys(("ConfigError", "DataError", "CheckpointError"), "isanet_jax.errors"),
}
__all__ = [  # noqa: PLE0604 - strings they are
    "__version__",
    *_MODULE_OF,
    "runtime",
]


def __getattr__(name):
    """The public names, imported when they are first used (PEP 562)."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name == "runtime":
        return importlib.import_module("isanet_jax.runtime")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
