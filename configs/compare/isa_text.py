"""ISA-Net as its authors' code has it, and as the paper's text says (`model.reading`).

    isanet compare --config compare/isa_text:sts,smoke --workdir runs/text --jobs 2

What differs is in docs/decisions.md, what was measured in docs/evidence/comparisons.md.
"""

from isanet_jax.configs.compare.comparison import SMOKE_SEEDS, add_method, comparison


def get_config(options: str = ""):
    """The two readings of the paper."""
    config = comparison("Two readings of the paper: code and text", options)
    for reading, label in (("code", "ISA, authors' code"), ("text", "ISA, paper's text")):
        name = f"isa_{reading}"
        add_method(config, name, label, {"model": {"name": "isa", "reading": reading}})
    config.folds = (0, 1)
    config.seeds = SMOKE_SEEDS if config.size == "smoke" else (0, 1)
    config.reference = "isa_code"
    return config
