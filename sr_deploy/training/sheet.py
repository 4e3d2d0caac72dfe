"""Examples of what a recipe trains on, as a picture to look at."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.pictures.chart import INK, blank
from sr_deploy.pictures.image import Picture, write_image
from sr_deploy.training.crops import Example
from sr_deploy.training.job import read_content, stage_crops
from sr_deploy.training.recipe import TrainingRecipe

_COLUMNS, _ROWS = 4, 6
_SIDE, _GAP, _LINE, _LINES = 192, 4, 13, 3
_LETTERS = 62
"""In a line of a caption."""


def show_degradations(recipe: TrainingRecipe, path: Path) -> None:
    """Write a sheet of crops that the last stage trains on, HR beside LR, with what was done to each.

    path: a file whose ending says the format, such as sheet.png.

    Raises: as `train` for the photos; ImageError for a file that cannot be written.
    """
    crops = stage_crops(recipe, len(recipe.stages) - 1, *read_content(recipe))
    examples = (example for step in itertools.count() for example in crops.examples(step))
    write_image(path, Picture(sheet_of(list(itertools.islice(examples, _COLUMNS * _ROWS)))))


def sheet_of(examples: Sequence[Example]) -> Array:
    """(H, W, 3) uint8: each example's HR and LR as large as each other, and below them its picture's name and its steps."""
    import cv2

    width, height = 2 * _SIDE + 3 * _GAP, _SIDE + _LINES * _LINE + 2 * _GAP
    rows = -(-len(examples) // _COLUMNS)
    canvas = blank(rows * height, _COLUMNS * width)
    for index, example in enumerate(examples):
        top, left = index // _COLUMNS * height + _GAP, index % _COLUMNS * width + _GAP
        for image in (example.hr, example.lr):
            shown = cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
            canvas[top : top + _SIDE, left : left + _SIDE] = shown.reshape(_SIDE, _SIDE, -1)
            left += _SIDE + _GAP
        left -= 2 * (_SIDE + _GAP)
        caption = textwrap.wrap(f"{example.name}: {', '.join(example.told) or 'bicubic'}", _LETTERS)[:_LINES]
        for line, words in enumerate(caption, 1):
            ascii_words = words.encode("ascii", "replace").decode()
            place = (left, top + _SIDE + line * _LINE)
            cv2.putText(canvas, ascii_words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    return canvas
