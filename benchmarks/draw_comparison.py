"""Draw the README's picture: the project's own test picture at a quarter of its size, upscaled by bicubic and by a bundle.

python benchmarks/draw_comparison.py BUNDLE docs/comparison.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sr_deploy import Upscaler
from sr_deploy.bicubic import imresize
from sr_deploy.pictures.image import Picture, read_image, write_image

Image = np.ndarray[Any, Any]
ZOOM = 3
CROP = slice(120, 240), slice(0, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    hr = read_image(Path("sr_deploy/probe_picture.png")).pixels
    height, width = hr.shape[:2]
    with Upscaler(options.bundle, precision="fp32") as upscale:
        lr = imresize(hr, height // upscale.scale, width // upscale.scale)
        panels = {
            f"LR, 1/{upscale.scale}": cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_NEAREST),
            "bicubic": imresize(lr, height, width),
            upscale.card.name: upscale(lr),
            "HR": hr,
        }
    drawn = [panel(name, image) for name, image in panels.items()]
    write_image(options.output, Picture(np.ascontiguousarray(np.concatenate(drawn, axis=1))))


def panel(name: str, image: Image) -> Image:
    """A crop, enlarged without smoothing, with its name below."""
    large = cv2.resize(np.ascontiguousarray(image[CROP]), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST)
    framed = cv2.copyMakeBorder(large, 4, 36, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, name, (6, framed.shape[0] - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.65, (40, 40, 40), 1, cv2.LINE_AA)
    return np.asarray(framed)


if __name__ == "__main__":
    main()
