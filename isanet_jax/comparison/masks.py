"""The masks of a comparison's finished cells, as its figures and its page show them."""

import math
import zipfile
import zlib

import numpy as np

from isanet_jax.comparison.cell import MASKS, SCORES
from isanet_jax.errors import damaged
from isanet_jax.evaluation.evaluate import NETWORK


def _done(comparison, cells):
    """The finished cells whose masks are shown: of the first seed, for masks have no mean."""
    first = comparison["seeds"][0]
    return [c for c in cells if c.is_done and c.seed == first and c.method in comparison["methods"]]


def masks_of_cases(comparison, cells) -> dict[str, dict[str, tuple]]:
    """Case -> method -> (packed mask of all classes, DSC), of the first seed."""
    drawn = {}
    for cell in _done(comparison, cells):
        scores, path = cell.scores()[NETWORK], cell.folder / MASKS
        try:
            with open(path, "rb") as file, np.load(file) as stored:
                masks = {case: stored[case] for case in scores}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            action = (
                f"Delete {SCORES} beside it and run the same command again: the cell is scored anew"
            )
            raise damaged(path, error, action) from error
        for case, mask in masks.items():
            drawn.setdefault(case, {})[cell.method] = mask, scores[case]["dsc"]
    return drawn


def case_folder(comparison, cells) -> str | None:
    """Where the cases of all finished cells are; None: on several grids, or nowhere."""
    folders = {cell.config.data.cases for cell in _done(comparison, cells)}
    return folders.pop() if len(folders) == 1 else None


def unpacked(packed: np.ndarray, shape) -> np.ndarray:
    """The mask (D, H, W) bool of its bits."""
    return np.unpackbits(packed, count=math.prod(shape)).reshape(shape).astype(bool)
