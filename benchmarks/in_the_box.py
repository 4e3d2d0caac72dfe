"""The networks in the box beside bicubic and Lanczos, on clean and on damaged pictures, as Markdown tables.

python benchmarks/in_the_box.py HR [HR ...] [--photos photos] [--scale 4] [--bundle run/bundle]...

HR are folders of pictures. Of `--photos`, only those count that no network in the box was trained on. Each picture is made
small by bicubic, then saved as JPEG (Pillow, 4:2:0), or blurred, made noisy and saved. PSNR and SSIM are of Y; milliseconds
are the median of a picture of 256x256. The grid is what a network prints at its own period: the mean of |Y[i + 1] - Y[i]| by i
modulo the scale, the largest over the smallest; by Lanczos on the same pictures it is 1 and a little.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sr_deploy import Upscaler
from sr_deploy.bicubic import imresize
from sr_deploy.metrics import luma, psnr_y, ssim_y
from sr_deploy.models import available
from sr_deploy.pictures.image import read_image
from sr_deploy.training.photos import hold_out, read_photos

Pixels = np.ndarray[Any, Any]
Method = Callable[[Pixels], Pixels]

HELD_OUT = 16
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the networks in the box on clean and damaged pictures.")
    parser.add_argument("hr", type=Path, nargs="*")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--bundle", dest="bundles", type=Path, action="append", default=[])
    options = parser.parse_args()
    scale = options.scale
    sets = {folder.parent.name if folder.name == "HR" else folder.name: list(pictures_of(folder)) for folder in options.hr}
    if options.photos:
        sets["held out"] = [photo.hr for photo in hold_out(read_photos([options.photos], scale), HELD_OUT)[1]]
    methods: dict[str, Method] = {"bicubic": lambda lr: imresize(lr, *(side * scale for side in lr.shape[:2]))}
    methods["Lanczos"] = lambda lr: resized(lr, scale)
    bundles = [model.folder for model in available() if model.scale == scale] + options.bundles
    for folder in bundles:
        methods[folder.name] = Upscaler(folder, precision="fp32")
    for name, pictures in sets.items():
        table(name, pictures, methods, scale)
    speed_and_grid([picture for pictures in sets.values() for picture in pictures], methods, scale)


def pictures_of(folder: Path) -> Iterator[Pixels]:
    for path in sorted(folder.glob("*.png")):
        pixels = read_image(path).pixels
        yield pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)


def table(name: str, pictures: Sequence[Pixels], methods: dict[str, Method], scale: int) -> None:
    print(f"\n### {name}, {len(pictures)} pictures, x{scale}\n")
    print(f"| | {' | '.join(DAMAGES)} |\n|{'---|' * (len(DAMAGES) + 1)}")
    rows: dict[str, list[str]] = {method: [] for method in methods}
    for damaged in DAMAGES.values():
        found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
        for picture in pictures:
            height, width = (side // scale for side in picture.shape[:2])
            hr = np.ascontiguousarray(picture[: height * scale, : width * scale])
            lr = damaged(imresize(hr, height, width))
            for method, upscale in methods.items():
                large = upscale(lr)
                found[method].append((psnr_y(hr, large, border=scale), ssim_y(hr, large, border=scale)))
        for method, scores in found.items():
            psnr, ssim = (statistics.fmean(values) for values in zip(*scores, strict=True))
            rows[method].append(f"{psnr:.2f} / {ssim:.4f}")
    for method, cells in rows.items():
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


def speed_and_grid(pictures: Sequence[Pixels], methods: dict[str, Method], scale: int) -> None:
    small = resized(imresize(pictures[0], 64, 64), 4)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(ROUNDS):
        for method, upscale in methods.items():
            began = time.perf_counter()
            upscale(small)
            seconds[method].append(time.perf_counter() - began)
    lrs = [imresize(picture, *(side // scale for side in picture.shape[:2])) for picture in pictures]
    grids = {method: [grid(upscale(lr), scale) for lr in lrs] for method, upscale in methods.items()}
    print("\n| | ms | grid, median | grid over Lanczos', median | largest |\n|---|---|---|---|---|")
    for method, values in grids.items():
        beside = [value / lanczos for value, lanczos in zip(values, grids["Lanczos"], strict=True)]
        ms = 1000 * statistics.median(seconds[method])
        print(
            f"| {method} | {ms:.1f} | {statistics.median(values):.3f} | {statistics.median(beside):.3f} | {max(beside):.3f} |"
        )


def grid(image: Pixels, scale: int) -> float:
    """The row gradients' largest mean of a phase over the smallest."""
    steps = np.abs(np.diff(luma(image), axis=0)).mean(axis=1)
    phases = [steps[phase::scale].mean() for phase in range(scale)]
    return float(max(phases) / max(min(phases), 1e-9))


def resized(image: Pixels, scale: int) -> Pixels:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.LANCZOS))


def saved(image: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def noisy(image: Pixels) -> Pixels:
    noise = np.random.default_rng(1).normal(0, 3, image.shape)
    return np.asarray((image + noise).round().clip(0, 255).astype(np.uint8))


DAMAGES: dict[str, Method] = {
    "clean": lambda lr: lr,
    **{f"JPEG {quality}": partial(saved, quality=quality) for quality in (30, 50, 75, 90)},
    "blur, noise, JPEG 75": lambda lr: saved(noisy(cv2.GaussianBlur(lr, (0, 0), 0.6)), 75),
}


if __name__ == "__main__":
    main()
