"""Draw a picture enlarged by bicubic, and beside it what a network made of it.

python benchmarks/draw_before_after.py PICTURE RESULT OUTPUT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sr_deploy.bicubic import imresize
from sr_deploy.pictures.image import Picture, read_image, write_image

Image = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    before, after = read_image(options.picture).pixels, read_image(options.result).pixels
    enlarged = imresize(before, *after.shape[:2])
    panels = [panel(enlarged, "before: bicubic"), panel(after, "after")]
    write_image(options.output, Picture(np.ascontiguousarray(np.concatenate(panels, axis=1))))
    print(options.output)


def panel(image: Image, name: str) -> Image:
    """The image with its name below."""
    framed = cv2.copyMakeBorder(image, 6, 44, 6, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, name, (10, framed.shape[0] - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (40, 40, 40), 1, cv2.LINE_AA)
    return np.asarray(framed)


if __name__ == "__main__":
    main()
