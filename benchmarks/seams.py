"""What tiling costs: tiled against whole, in fp32, as a Markdown table.

python benchmarks/seams.py HR_FOLDER BUNDLE... [--tile 32 --tile 64]

Every HR image is shrunk by bicubic and upscaled whole and in tiles. Reported are the largest and the mean difference in 8-bit
steps, and the PSNR-Y against HR that tiling loses (negative: gains).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy import Upscaler
from sr_deploy.bicubic import imresize
from sr_deploy.metrics import psnr_y
from sr_deploy.pictures.image import read_image

Image = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--tile", dest="tiles", action="append", type=int)
    options = parser.parse_args()
    tiles = options.tiles or [32, 64, 96]
    hrs = [image for path in sorted(options.images.glob("*.png")) if (image := read_image(path).pixels).shape[2] == 3]
    print(f"| network | tiles are | {' | '.join(f'{tile}: max, mean LSB, dB lost' for tile in tiles)} |")
    print(f"|---|---|{'---|' * len(tiles)}")
    for bundle in options.bundles:
        with Upscaler(bundle, precision="fp32", tile=0) as whole:
            cells = [cost(whole, bundle, tile, hrs) for tile in tiles]
            print(f"| {whole.card.name} | {whole.card.tiling} | {' | '.join(cells)} |", flush=True)


def cost(whole: Upscaler, bundle: Path, tile: int, hrs: list[Image]) -> str:
    largest, means, losses = 0, [], []
    with Upscaler(bundle, precision="fp32", tile=tile) as tiled:
        for image in hrs:
            height, width = (side // whole.scale * whole.scale for side in image.shape[:2])
            hr = np.ascontiguousarray(image[:height, :width])
            lr = imresize(hr, height // whole.scale, width // whole.scale)
            first, second = whole(lr), tiled(lr)
            difference = np.abs(first.astype(int) - second)
            largest = max(largest, int(difference.max()))
            means.append(float(difference.mean()))
            losses.append(psnr_y(hr, first, border=whole.scale) - psnr_y(hr, second, border=whole.scale))
    return f"{largest}, {np.mean(means):.3f}, {np.mean(losses):.4f}"


if __name__ == "__main__":
    main()
