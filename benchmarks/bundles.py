"""Time several bundles side by side in one run, as a Markdown table: networks against each other, or options of one network.

python benchmarks/bundles.py IMAGE BUNDLE... [--size 480x270] [--rounds 5] [--precision fp32 --precision bf16]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import get_args

import cv2

from sr_deploy import Upscaler, open_bundle
from sr_deploy.engines import Arithmetic
from sr_deploy.pictures.image import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", dest="precisions", action="append", choices=get_args(Arithmetic))
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    image = cv2.resize(read_image(options.image).pixels, (width, height), interpolation=cv2.INTER_AREA)
    precisions = options.precisions or ["fp32", "bf16"]
    upscalers = {
        (bundle, precision): Upscaler(bundle, precision=precision, tile=0)
        for bundle in options.bundles
        for precision in precisions
    }
    seconds: dict[tuple[Path, str], list[float]] = {key: [] for key in upscalers}
    for round_number in range(options.rounds + 1):
        for key, upscale in upscalers.items():
            start = time.perf_counter()
            upscale(image)
            if round_number > 0:
                seconds[key].append(time.perf_counter() - start)
    print(f"{width}x{height}, medians in ms\n")
    print(
        f"| bundle | scale | thousand MACs per LR pixel | {' | '.join(precisions)} |\n|---|---|---|{'---|' * len(precisions)}"
    )
    for bundle in options.bundles:
        card = open_bundle(bundle).card
        cells = [f"{statistics.median(seconds[bundle, precision]) * 1000:.0f}" for precision in precisions]
        print(f"| {bundle.name} | x{card.scale} | {card.macs / 1000:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
