"""Draw crops of real pictures and video frames as Lanczos and networks in the box enlarge them, one row for each crop.

python benchmarks/draw_photos.py docs/photos.png FILE:X,Y [FILE:X,Y ...] [-m fast-x4 -m photo-fast-x4 -m photo-x4] [--side 48]

FILE is a picture, or a video, whose twentieth frame is taken; X,Y is where the crop begins, in its own pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from sr_deploy import Upscaler
from sr_deploy.batch.naming import holds_video
from sr_deploy.pictures.image import Picture, read_image, write_image

Pixels = np.ndarray[Any, Any]

FRAME = 20
CONTEXT = 24
PANEL = 240


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw crops as networks in the box enlarge them.")
    parser.add_argument("output", type=Path)
    parser.add_argument("crops", nargs="+")
    parser.add_argument("-m", "--model", dest="models", action="append")
    parser.add_argument("--side", type=int, default=48)
    options = parser.parse_args()
    upscalers = [Upscaler(model, precision="fp32") for model in options.models or ["fast-x4", "photo-fast-x4", "photo-x4"]]
    methods: list[Callable[[Pixels], Pixels]] = [lanczos, *upscalers]
    names = ["Lanczos", *(upscaler.bundle.card.name for upscaler in upscalers)]
    rows = [title(names)]
    for crop in options.crops:
        file, _, place = crop.rpartition(":")
        left, top = (int(part) for part in place.split(","))
        pixels = pixels_of(Path(file))
        around = pixels[
            max(0, top - CONTEXT) : top + options.side + CONTEXT, max(0, left - CONTEXT) : left + options.side + CONTEXT
        ]
        inner = min(top, CONTEXT), min(left, CONTEXT)
        panels = []
        for method in methods:
            large = method(around)
            scale = large.shape[0] // around.shape[0]
            down, across = (scale * start for start in inner)
            part = large[down : down + scale * options.side, across : across + scale * options.side]
            panels.append(cv2.resize(np.ascontiguousarray(part), (PANEL, PANEL), interpolation=cv2.INTER_NEAREST))
        rows.append(np.concatenate([framed(panel) for panel in panels], axis=1))
    write_image(options.output, Picture(np.ascontiguousarray(np.concatenate(rows))))


def pixels_of(file: Path) -> Pixels:
    """(H, W, 3) uint8 RGB."""
    if not holds_video(file):
        pixels = read_image(file).pixels
        return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels.repeat(3, axis=2))
    with av.open(str(file)) as container:
        frames = container.decode(video=0)
        frame = next(frame for number, frame in enumerate(frames) if number == FRAME)
        return np.asarray(frame.to_ndarray(format="rgb24"))


def lanczos(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((4 * width, 4 * height), Image.Resampling.LANCZOS))


def framed(panel: Pixels) -> Pixels:
    return np.asarray(cv2.copyMakeBorder(panel, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))


def title(names: list[str]) -> Pixels:
    drawn = np.full((28, (PANEL + 4) * len(names), 3), 255, np.uint8)
    for number, name in enumerate(names):
        place = ((PANEL + 4) * number + 6, 19)
        cv2.putText(drawn, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return drawn


if __name__ == "__main__":
    main()
