"""Many pictures of many sizes, and many videos, in one process: whether memory and threads stay flat.

    python benchmarks/fuzz/endurance.py [--pictures 1000] [--sizes 500] [--videos 200] [--model fast-x2] [--seed 0]

Prints resident megabytes after each tenth of the pictures; megabytes, threads and open files after each tenth of the videos.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from random import Random

import cv2
import numpy as np

from sr_deploy import Upscaler, upscale_video
from sr_deploy.batch.folder import Observer, Outcome, upscale_files

LONGEST_SIDE = 320
FILM = "testsrc2=size=64x48:rate=12:duration=1"


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Watch(Observer):
    """Prints what the process holds after every so many pictures."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._done = 0

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        if outcome.failure:
            raise SystemExit(f"{outcome.job.source}: {outcome.failure.message}")
        if self._done % self._every == 0:
            print(f"| {self._done} | {resident_megabytes():.0f} | {threads()} |", flush=True)


def pictures(folder: Path, count: int, sizes: int, random: Random) -> None:
    """Photographs would be no other: what counts is their size."""
    sides = [(random.randint(1, LONGEST_SIDE), random.randint(1, LONGEST_SIDE)) for _ in range(sizes)]
    noise = np.random.default_rng(0).integers(0, 256, (LONGEST_SIDE, LONGEST_SIDE, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    for number in range(count):
        height, width = sides[random.randrange(sizes)] if number >= sizes else sides[number]
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), smooth[:height, :width])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--sizes", type=int, default=500)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--model", default="fast-x2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Upscaler(options.model) as upscaler:
        folder = Path(name)
        (folder / "pictures").mkdir()
        pictures(folder / "pictures", options.pictures, options.sizes, Random(options.seed))
        print("| pictures | MB | threads |\n|---|---|---|")
        upscale_files([folder / "pictures"], folder / "large", upscaler, observer=Watch(max(options.pictures // 10, 1)))
        film, target = folder / "film.mp4", folder / "large.mp4"
        ffmpeg = shutil.which("ffmpeg") or "ffmpeg"
        subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", FILM, str(film)], check=True, stdin=subprocess.DEVNULL)
        print("\n| videos | MB | threads | open files |\n|---|---|---|---|")
        for number in range(1, options.videos + 1):
            upscale_video(film, target, upscaler)
            target.unlink()
            if number % max(options.videos // 10, 1) == 0:
                print(f"| {number} | {resident_megabytes():.0f} | {threads()} | {open_files()} |", flush=True)


if __name__ == "__main__":
    main()
