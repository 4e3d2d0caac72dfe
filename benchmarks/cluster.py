"""What it costs to take a run apart, over processes and over Ray, against one process on this machine.

    python benchmarks/cluster.py [--parts start,pictures,segments,kill,join,plan] [--rounds 3] [--pictures 1000] [--hours 10]

start: seconds of each command that has next to nothing to do. pictures: a folder of small ones, by one process and by two
workers of Ray, less what one picture takes; all files are compared. segments: a film in one process, and segment by segment.
kill: the same film on Ray, and with a worker that is killed in the middle. join: of so many segments, with the memory it takes.
plan: of a long film with sound. Variants take turns, medians are printed, as a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sr_deploy import Upscaler, plan_video, upscale_video
from sr_deploy.batch import UpscalerSpec
from sr_deploy.batch.folder import Observer, upscale_files
from sr_deploy.cluster import RayOptions, upscale_on_ray
from sr_deploy.errors import CancelledError
from sr_deploy.film.compute import compute_segment
from sr_deploy.film.observer import VideoObserver, VideoProgress
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.plan import VideoPlan

MODEL = "fast-x2"
SPEC = UpscalerSpec(MODEL, threads=1)
WORKERS = RayOptions(workers=2, worker_cpus=1)
FAST = VideoOptions(preset="ultrafast", overwrite=True)
SEGMENTS = (1, 100, 10_000)
LAST = 50
"""Segments that are computed one by one, so that no run is complete."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", default="start,pictures,segments,kill,join,plan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--hours", type=int, default=10)
    chosen = parser.parse_args()
    print("| | value |\n|---|---|", flush=True)
    parts: dict[str, Callable[[Path], None]] = {
        "start": lambda folder: start(folder, chosen.rounds),
        "pictures": lambda folder: pictures(folder, chosen.rounds, chosen.pictures),
        "segments": lambda folder: segments(folder, chosen.rounds),
        "kill": lambda folder: kill(folder, chosen.rounds),
        "join": join,
        "plan": lambda folder: plan(folder, chosen.rounds, chosen.hours),
    }
    for part in chosen.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            parts[part](Path(folder))


def row(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def in_turn(rounds: int, **variants: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a noisy machine disturbs all alike."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, act in variants.items():
            taken[name].append(seconds(act))
    return {name: statistics.median(times) for name, times in taken.items()}


def command(*arguments: str | Path) -> tuple[float, int]:
    """Seconds, and megabytes at the peak, of one command."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from sr_deploy.cli import main; main()", *map(str, arguments)], stdout=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        # What the system tells at the end counts the memory of this process, too, as it was before the command took over.
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"))
        peak = int(found[1]) if found else peak
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} ended with {process.returncode}")
    return time.perf_counter() - began, peak // 1024


def film(path: Path, frames: int, size: str = "64x48") -> Path:
    """A moving test picture."""
    source = ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25", "-frames:v", str(frames))
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def small_pictures(folder: Path, count: int) -> Path:
    """Smooth noise of a few sizes."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:06}.png"), smooth[: 48 + number % 16, : 64 + number % 32])
    return folder


def start(folder: Path, rounds: int) -> None:
    """Each command alone, with one small picture or a film of one segment."""
    picture, clip = small_pictures(folder / "one", 1), film(folder / "film.mp4", 4)
    part = folder / "large.mkv.part"
    common = ("-m", MODEL)
    taken: dict[str, list[float]] = {name: [] for name in ("upscale", "upscale --on ray", "plan", "segment", "join")}
    for number in range(rounds):
        taken["upscale"].append(command("upscale", picture, *common, "-o", folder / f"a{number}")[0])
        ray = ("--on", "ray", "--workers", "2", "--worker-cpus", "1")
        taken["upscale --on ray"].append(command("upscale", picture, *common, "-o", folder / f"b{number}", *ray)[0])
        taken["plan"].append(command("plan", clip, *common, "-o", folder / "large.mkv", "--overwrite")[0])
        taken["segment"].append(command("segment", part, "--index", "0")[0])
        taken["join"].append(command("join", part)[0])
    for name, times in taken.items():
        row(f"start: `{name}`", f"{statistics.median(times):.2f} s")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pictures(folder: Path, rounds: int, count: int) -> None:
    many, one = small_pictures(folder / "many", count), small_pictures(folder / "one", 1)
    numbers = itertools.count()

    def alone(inputs: Path) -> Callable[[], object]:
        def run() -> None:
            with Upscaler(MODEL) as upscaler:
                upscale_files([inputs], folder / f"alone{next(numbers)}", upscaler)

        return run

    def on_ray(inputs: Path) -> Callable[[], object]:
        return lambda: upscale_on_ray([inputs], folder / f"ray{next(numbers)}", SPEC, ray=WORKERS)

    found = in_turn(rounds, one=alone(one), many=alone(many), ray_one=on_ray(one), ray_many=on_ray(many))
    here, there = found["many"] - found["one"], found["ray_many"] - found["ray_one"]
    results = [contents(path) for path in folder.iterdir() if path.name.startswith(("alone", "ray"))]
    whole = [result for result in results if len(result) == count]
    equal = len(whole) == 2 * rounds and all(result == whole[0] for result in whole)
    row(f"{count} pictures, one process, beyond one picture", f"{here:.2f} s, {here / count * 1000:.2f} ms each")
    row(f"{count} pictures, 2 workers of Ray, beyond one picture", f"{there:.2f} s, {there / count * 1000:.2f} ms each")
    row("ratio; files equal", f"{there / here:.2f}; {equal}")


def segments(folder: Path, rounds: int) -> None:
    clip, count = film(folder / "film.mp4", 400), 100
    options = VideoOptions(preset="ultrafast", overwrite=True, segment_frames=4)
    with Upscaler(MODEL) as upscaler:

        def apart() -> None:
            planned = plan_video(clip, folder / "apart.mkv", upscaler, options=options)
            for index in range(len(planned.segments)):
                compute_segment(planned, index, upscaler)
            assert len(planned.segments) == count
            shutil.rmtree(planned.part)

        found = in_turn(rounds, whole=lambda: upscale_video(clip, folder / "whole.mkv", upscaler, options=options), apart=apart)
    more = (found["apart"] - found["whole"]) / count
    row(f"{count} segments of 4 frames, one process, `upscale`", f"{found['whole']:.2f} s")
    row(f"{count} segments of 4 frames, one process, one by one", f"{found['apart']:.2f} s, {more * 1000:.1f} ms more each")


def kill(folder: Path, rounds: int) -> None:
    clip = film(folder / "film.mp4", 1200, "320x240")
    video = VideoOptions(preset="ultrafast", overwrite=True, segment_frames=24)

    class Killer(Observer):
        """Ends one worker in the middle of the film."""

        done = 0

        def frames(self, *_: Any) -> None:
            self.done += 1
            if self.done == 25:
                os.kill(int(subprocess.check_output(["pgrep", "-n", "-f", "^ray::Worker"])), signal.SIGKILL)

    def run(observer: Observer) -> None:
        upscale_on_ray([clip], folder / "out", SPEC, video=video, ray=WORKERS, observer=observer)

    found = in_turn(rounds, whole=lambda: run(Observer()), killed=lambda: run(Killer()))
    row("film of 50 segments on 2 workers of Ray", f"{found['whole']:.2f} s")
    row("with one of them killed in the middle", f"{found['killed']:.2f} s")


def computed(folder: Path, count: int) -> VideoPlan:
    """A plan with all of its segments, of one frame each, and no target yet."""
    clip = film(folder / f"{count}.mp4", count, "16x16")
    options = VideoOptions(preset="ultrafast", segment_frames=1)
    cancel = threading.Event()

    class NearlyDone(VideoObserver):
        def written(self, progress: VideoProgress) -> None:
            if progress.frames >= count - LAST:
                cancel.set()

    with Upscaler(MODEL, threads=1) as upscaler:
        planned = plan_video(clip, folder / f"{count}.mkv", upscaler, options=options)
        try:
            if count > 1:
                upscale_video(clip, planned.target, upscaler, options=options, observer=NearlyDone(), cancel=cancel)
        except CancelledError:
            pass
        for index in range(max(count - 2 * LAST, 0), count):
            compute_segment(planned, index, upscaler)
    return planned


def join(folder: Path) -> None:
    for count in SEGMENTS:
        planned = computed(folder, count)
        taken, megabytes = command("join", planned.part)
        row(f"join of {count} segments", f"{taken:.2f} s, {megabytes} MB")


def plan(folder: Path, rounds: int, hours: int) -> None:
    """Ten minutes, again and again: every packet is there, and none has to be encoded."""
    source = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "600")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
    short = folder / "short.mp4"
    subprocess.run(["ffmpeg", "-v", "error", *source, *codecs, str(short)], check=True)
    for suffix in (".mp4", ".mkv"):
        long = folder / f"long{suffix}"
        repeated = ("-stream_loop", str(hours * 6 - 1), "-i", str(short), "-c", "copy", str(long))
        subprocess.run(["ffmpeg", "-v", "error", *repeated], check=True)
        with Upscaler(MODEL) as upscaler:
            target = folder / f"large{suffix}"
            found = in_turn(rounds, plan=lambda: plan_video(long, target, upscaler, options=FAST))  # noqa: B023
        row(f"plan of {hours} hours with sound, {suffix}, {long.stat().st_size >> 20} MB", f"{found['plan']:.2f} s")


if __name__ == "__main__":
    main()
