"""Time and PSNR-Y of masked upscaling on this CPU: a pair under budgets, and a mask-guided network over the share of patches.

python benchmarks/masked.py pair BASE REFINE PICTURES [--side 1000] [--rounds 3]
python benchmarks/masked.py guided BUNDLE PICTURES [--side 256] [--rounds 3]

The pictures, whatever their size, are laid beside each other until they fill a square of --side LR pixels; LR is made by
bicubic. Everything runs once, and then in turn in each round, so that a noisy machine disturbs all alike. Medians are printed
as Markdown, shares of time as medians of those of each round. Time is that of the processor, on all cores: what else the
machine does does not count; --wall takes the clock's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy import Upscaler
from sr_deploy.bicubic import imresize
from sr_deploy.engines import mask_guided
from sr_deploy.masked import pair as pairs
from sr_deploy.masked.masked_upscaler import MaskedUpscaler
from sr_deploy.metrics import psnr_y
from sr_deploy.pictures.image import READABLE_SUFFIXES, read_image
from sr_deploy.upscaling.image_upscaler import ImageUpscaler

Array = np.ndarray[Any, np.dtype[Any]]

BUDGETS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class ProcessorTime:
    """Stands for the module `time` in what measures its own speed."""

    perf_counter = staticmethod(time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time masked upscaling.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int)
    parser.add_argument("--wall", action="store_true")
    kinds = parser.add_subparsers(dest="kind", required=True)
    pair = kinds.add_parser("pair")
    pair.add_argument("base", type=Path)
    pair.add_argument("refine", type=Path)
    guided = kinds.add_parser("guided")
    guided.add_argument("bundle", type=Path)
    for kind in (pair, guided):
        kind.add_argument("pictures", type=Path)
    options = parser.parse_args()
    if not options.wall:
        pairs.time = mask_guided.time = ProcessorTime  # type: ignore[attr-defined, assignment]
    clock = time.perf_counter if options.wall else time.process_time
    if options.kind == "pair":
        time_pair(options.base, options.refine, options.pictures, options.side or 1000, options.rounds, clock)
    else:
        time_guided(options.bundle, options.pictures, options.side or 256, options.rounds, clock)


def mosaic(folder: Path, side: int) -> Array:
    """(side,side,3) of the pictures in a folder, row by row, each row as low as its lowest picture."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READABLE_SUFFIXES]
    pictures = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in (read_image(file).pixels for file in files)]
    if not pictures:
        raise SystemExit(f"{folder}: no pictures")
    rows, height, each = [], 0, itertools.cycle(pictures)
    while height < side:
        row: list[Array] = []
        while sum(part.shape[1] for part in row) < side:
            row.append(next(each))
        lowest = min(part.shape[0] for part in row)
        rows.append(np.concatenate([part[:lowest] for part in row], axis=1)[:, :side])
        height += lowest
    return np.ascontiguousarray(np.concatenate(rows)[:side])


def time_all(
    upscalers: dict[str, ImageUpscaler], lr: Array, hr: Array, rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round, and PSNR-Y of the last one, of each."""
    seconds: dict[str, list[float]] = {name: [] for name in upscalers}
    quality = {}
    for number in range(rounds + 1):
        for name, upscale in upscalers.items():
            start = clock()
            large = upscale(lr)
            if number:
                seconds[name].append(clock() - start)
            if number == rounds:
                quality[name] = psnr_y(hr, large, border=upscale.scale)
    return seconds, quality


def share(part: list[float], whole: list[float]) -> float:
    """Median over the rounds of one time's share in another."""
    return statistics.median(one / other for one, other in zip(part, whole, strict=True))


def time_pair(base: Path, refine: Path, folder: Path, side: int, rounds: int, clock: Callable[[], float]) -> None:
    plain = {"base": Upscaler(base), "refine": Upscaler(refine)}
    scale = plain["base"].scale
    hr = mosaic(folder, side * scale)
    lr = imresize(hr, side, side)
    masked = {f"{budget:.0%}": pairs.PairUpscaler(plain["base"], plain["refine"], budget=budget) for budget in BUDGETS}
    seconds, quality = time_all({**plain, **masked}, lr, hr, rounds, clock)
    whole, least = seconds["refine"], share(seconds["base"], seconds["refine"])
    gain = quality["refine"] - quality["base"]
    for name in plain:
        print(f"{name} {statistics.median(seconds[name]):.2f} s {quality[name]:.3f} dB")
    print(f"base in {least:.0%} of the time of refine\n")
    print("| budget | time | refined | PSNR-Y | share of the gain | on the straight line |\n|---|---|---|---|---|---|")
    for name, upscale in masked.items():
        reached = (quality[name] - quality["base"]) / gain
        time_taken = share(seconds[name], whole)
        line = (time_taken - least) / (1 - least)
        print(f"| {name} | {time_taken:.0%} | {upscale.stats.share:.0%} | {quality[name]:.3f} | {reached:.2f} | {line:.2f} |")


def time_guided(bundle: Path, folder: Path, side: int, rounds: int, clock: Callable[[], float]) -> None:
    upscalers = {f"{refined:.0%}": MaskedUpscaler(bundle, k=refined, on_failure="bicubic") for refined in SHARES}
    scale = next(iter(upscalers.values())).scale
    hr = mosaic(folder, side * scale)
    seconds, _ = time_all(dict(upscalers), imresize(hr, side, side), hr, rounds, clock)
    base, everything = (statistics.median(seconds[name]) for name in ("0%", "100%"))
    print("| refined | ms | at most | of refining all |\n|---|---|---|---|")
    for refined in SHARES:
        taken = seconds[f"{refined:.0%}"]
        bound = base + 1.15 * refined * (everything - base)
        of_all = share(taken, seconds["100%"])
        print(f"| {refined:.0%} | {statistics.median(taken) * 1e3:.0f} | {bound * 1e3:.0f} | {of_all:.2f} |")


if __name__ == "__main__":
    main()
