"""Time exact temporal reuse on this CPU, side by side in one run: a screen recording and a clip in which everything moves.

python benchmarks/reuse.py BUNDLE [--frames 24] [--rounds 3] [--size 1920x1080]

Both clips are drawn on the spot. In the screen recording, a window of a sixteenth of the picture scrolls while it is dragged,
and a cursor wanders; the rest stands still. Every frame goes with reuse, without, and through plain Upscaler, in turn, so that
a noisy machine disturbs all alike; medians are printed as a Markdown table. Results with and without reuse are compared bit by
bit.

The last table is what the small tiles of `Upscaler._plan_finely` were chosen by: what tiles of several sizes cost when all are
computed, and what share of them the screen recording touches. ECBSR-M4C16 x2 (halo 6), bf16, 2 cores: fastest of 7, share over
16 frames, and milliseconds per frame of the recording's end with reuse:

| tile | whole | 270x480 | 270x256 | 180x240 | 128x256 | 96x160 | 64x128 |
|---|---|---|---|---|---|---|---|
| all computed, ms | 174 | 184 | 195 | 205 | 226 | 250 | |
| share of the recording | 100 % | 35 % | 24 % | 18 % | 18 % | 14 % | |
| with reuse, ms | | | | | 49 | 39 | 55 |

No one size is good for both clips: hence large tiles while everything moves, and small ones otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sr_deploy import Upscaler
from sr_deploy.upscaling.reuse import FrameReuse
from sr_deploy.upscaling.tiling import Tiling, plan_tiles

Array = np.ndarray[Any, Any]
TILES = ((0, 0), (270, 480), (270, 256), (180, 240), (128, 256), (96, 160))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="1920x1080")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    recording = list(screen_recording(height, width, options.frames))
    moving = list(everything_moves(height, width, options.frames))
    with Upscaler(options.bundle) as upscaler:
        print(f"{upscaler.description}, {width}x{height}, {len(os.sched_getaffinity(0))} cores\n")
        print(
            "| clip | moves | plain ms | without reuse ms | with reuse ms | without/with | plain/with | comparing ms | reused |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name, clip in (("screen recording", recording), ("everything moves", moving)):
            print(row(name, clip, upscaler, options.rounds))
        print("\n| tile | tiles | all computed, ms | computed in the recording |\n|---|---|---|---|")
        tilings(upscaler, recording, options.rounds)


def row(name: str, clip: list[Array], upscaler: Upscaler, rounds: int) -> str:
    """One clip through all contenders, frame by frame in turn."""
    seconds: dict[str, list[float]] = {"plain": [], "without": [], "with": []}
    for _ in range(rounds):
        reuse, without = FrameReuse(upscaler), FrameReuse(upscaler, enabled=False)
        contenders: dict[str, Callable[[Array], Array]] = {"plain": upscaler, "without": without, "with": reuse}
        for index, frame in enumerate(clip):
            results = {}
            for contender, upscale in contenders.items():
                start = time.perf_counter()
                results[contender] = upscale(frame)
                if index > 0:
                    seconds[contender].append(time.perf_counter() - start)
            if not np.array_equal(results["with"], results["without"]):
                raise SystemExit(f"{name}: frame {index} differs with reuse")
    plain, off, on = (statistics.median(values) for values in seconds.values())
    stats = reuse.stats
    share = stats.tiles_reused / (stats.tiles_computed + stats.tiles_reused)
    return (
        f"| {name} | {moved(clip):.1%} | {plain * 1000:.0f} | {off * 1000:.0f} | {on * 1000:.0f} | "
        f"{off / on:.2f} | {plain / on:.2f} | "
        f"{stats.comparing / stats.frames * 1000:.1f} | {share:.0%} |"
    )


def tilings(upscaler: Upscaler, recording: list[Array], rounds: int) -> None:
    """What a frame costs in tiles of several sizes, in turn, and what share of the tiles the recording touches."""
    height, width = recording[0].shape[:2]
    plans = {
        f"{tall}x{wide}" if tall else "whole": tiling(height, width, tall, wide, upscaler.card.halo) for tall, wide in TILES
    }
    plans["plan_finely"] = upscaler._plan_finely(height, width)
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for index in range(2 * rounds + 1):
        for name, plan in plans.items():
            start = time.perf_counter()
            upscaler._run_tiling(recording[0], plan)
            if index > 0:
                seconds[name].append(time.perf_counter() - start)
    for name, plan in plans.items():
        touched = statistics.mean(touches(plan, *pair) for pair in itertools.pairwise(recording))
        print(f"| {name} | {len(plan)} | {statistics.median(seconds[name]) * 1000:.0f} | {touched / len(plan):.0%} |")


def tiling(height: int, width: int, tall: int, wide: int, halo: int) -> Tiling:
    rows = plan_tiles(height, width, tile=tall, halo=halo, blend=False).rows
    return Tiling(rows, plan_tiles(height, width, tile=wide, halo=halo, blend=False).columns)


def touches(plan: Tiling, before: Array, after: Array) -> int:
    """How many windows of the tiling differ."""
    differs = (before != after).any(axis=2)
    tall, wide = plan.window
    return sum(int(differs[row.start : row.start + tall, column.start : column.start + wide].any()) for row, column in plan)


def moved(clip: list[Array]) -> float:
    """Mean share of the pixels that differ from the frame before."""
    return statistics.mean(float((before != after).any(axis=2).mean()) for before, after in itertools.pairwise(clip))


def screen_recording(height: int, width: int, frames: int) -> Iterator[Array]:
    """A desktop with text, a window that scrolls while it is dragged about, and a cursor."""
    desktop = page(height, width, lines=height // 18, seed=1)
    content = page(height, width // 4, lines=height // 18, seed=2)
    tall, wide = height // 4, width // 4
    for index in range(frames):
        frame = desktop.copy()
        top, left = height // 3 + 3 * index, width // 4 + 5 * index
        frame[top : top + tall, left : left + wide] = content[7 * index % (height - tall) :][:tall]
        cv2.circle(frame, (width // 10 + 9 * index, height // 10 + 4 * index), height // 120, (250, 250, 250), -1)
        yield frame


def everything_moves(height: int, width: int, frames: int) -> Iterator[Array]:
    """A pan over a blurred noisy picture."""
    noise = np.random.default_rng(3).normal(128, 60, (height, width + 4 * frames, 3)).clip(0, 255).astype(np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 2)
    for index in range(frames):
        yield np.ascontiguousarray(picture[:, 4 * index : 4 * index + width])


def page(height: int, width: int, *, lines: int, seed: int) -> Array:
    """Lines of letters on a light ground."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 235, np.uint8)
    for line in range(lines):
        text = "".join(chr(code) for code in random.integers(97, 123, width // 10))
        cv2.putText(picture, text, (8, (line + 1) * height // lines - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 60), 1)
    return picture


if __name__ == "__main__":
    main()
