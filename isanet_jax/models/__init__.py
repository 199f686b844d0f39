"""Trained models that come with the package, a file each: NAME.isanet (`make model`)."""

from pathlib import Path

from isanet_jax.files import BUNDLE_SUFFIX


def names() -> list[str]:
    """Of the models."""
    return sorted(path.stem for path in Path(__file__).parent.glob(f"*{BUNDLE_SUFFIX}"))


def resolve(text) -> Path:
    """The path of a model: a run's folder or a file, else the one of this name in the package."""
    own = Path(__file__).parent / f"{text}{BUNDLE_SUFFIX}"
    return own if not Path(text).exists() and str(text) in names() else Path(text)
