"""Time a video on this machine, side by side in one run: each stage alone, the whole, and the recipe that people use today.

python benchmarks/video.py MODEL.pth BUNDLE VIDEO [--frames 48] [--rounds 3] [--size 480x270] [--codec libx264] [--preset NAME]

The video is cut to `--frames` frames of `--size`, without loss. Every round runs each contender once, in turn; medians are
printed as a Markdown table. The recipe is ffmpeg as decoder and as encoder, joined by pipes to a loop of torch in eager mode.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cpu import machine, measure

from sr_deploy import Upscaler
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.run import upscale_video
from sr_deploy.upscaling.reuse import FrameReuse
from sr_deploy.video.encoding import choose_encoding
from sr_deploy.video.images import open_source
from sr_deploy.video.segment import SegmentWriter, segment_suffix

Contender = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--codec", default="libx264")
    parser.add_argument("--preset")
    options = parser.parse_args()
    video = VideoOptions(codec=options.codec, preset=options.preset, overwrite=True, reuse=True)
    with tempfile.TemporaryDirectory() as folder, Upscaler(options.bundle) as upscale:
        clip = cut(options.video, Path(folder), options.size, options.frames)
        contenders = {
            "read alone": lambda: read(clip),
            "upscale alone": upscale_alone(clip, upscale),
            "write alone": write_alone(clip, upscale, video, Path(folder)),
            "upscale_video": lambda: upscale_video(clip, Path(folder) / "large.mkv", upscale, options=video),
            "torch eager between two ffmpeg": recipe(options.checkpoint, clip, upscale.scale, Path(folder), video),
        }
        counted = {name: Counted(run) for name, run in contenders.items()}
        seconds = {name: statistics.median(values) for name, values in measure(dict(counted), options.rounds).items()}
    print(f"{upscale.card.name}, {options.frames} frames of {options.size} x{upscale.scale}, {options.codec}, {machine()}\n")
    print(
        "| contender | ms per frame | processor ms per frame | frames per second | times upscale_video |\n|---|---|---|---|---|"
    )
    whole = seconds["upscale_video"]
    busy = {name: run.processor_seconds / (options.rounds + 1) for name, run in counted.items()}
    for name, value in seconds.items():
        each, cores = 1000 * value / options.frames, 1000 * busy[name] / options.frames
        print(f"| {name} | {each:.1f} | {cores:.1f} | {1000 / each:.1f} | {value / whole:.2f} |")
    alone = [name for name in seconds if name.endswith("alone")]
    limit = sum(busy[name] for name in alone) / len(os.sched_getaffinity(0))
    print(f"\nThe whole takes {whole / max(seconds[name] for name in alone):.2f} times its slowest stage alone, and")
    print(f"{whole / limit:.2f} times what its stages' processor time takes on all cores.")


class Counted:
    """A contender with the processor time that it and its children took."""

    def __init__(self, run: Contender) -> None:
        self.processor_seconds = 0.0
        self._run = run

    def __call__(self) -> None:
        before = os.times()
        self._run()
        after = os.times()
        self.processor_seconds += sum(after[:4]) - sum(before[:4])


def cut(video: Path, folder: Path, size: str, frames: int) -> Path:
    """The first frames at that size, in an MKV without loss; a shorter video is played again."""
    clip = folder / "clip.mkv"
    scale = f"scale={size.replace('x', ':')}:flags=lanczos"
    command = ["ffmpeg", "-v", "error", "-stream_loop", "-1", "-i", video, "-an", "-sn", "-vf", scale, "-frames:v", str(frames)]
    subprocess.run([*map(str, command), "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", str(clip)], check=True)
    return clip


def read(clip: Path) -> list[np.ndarray[Any, Any]]:
    with open_source(clip) as source:
        return [frame.pixels for frame in source.frames()]


def upscale_alone(clip: Path, upscale: Upscaler) -> Contender:
    frames = read(clip)

    def run() -> None:
        network = FrameReuse(upscale, enabled=False)
        for frame in frames:
            network(frame)

    return run


def write_alone(clip: Path, upscale: Upscaler, options: VideoOptions, folder: Path) -> Contender:
    """Conversion and encoding of frames that are there already."""
    with open_source(clip) as source:
        frames, small = list(source.frames()), source.format
    few = [upscale(frame.pixels) for frame in frames[:8]]
    out = small.scaled(small.width * upscale.scale, small.height * upscale.scale)
    encoding = choose_encoding(small, out, ".mkv", codec=options.codec, preset=options.preset)
    path = folder / f"alone{segment_suffix(encoding)}"

    def run() -> None:
        with SegmentWriter(path, out, encoding) as writer:
            for index, frame in enumerate(frames):
                writer.write(type(frame)(few[index % len(few)], frame.pts, frame.duration))
            writer.close()

    return run


def recipe(checkpoint: Path, clip: Path, scale: int, folder: Path, options: VideoOptions) -> Contender:
    """What scripts around these networks do: a pipe out of ffmpeg, the network frame by frame, a pipe into ffmpeg."""
    import torch

    from sr_deploy.architectures import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    reading = max(loaded.readings, key=lambda reading: reading.value_range)
    network, peak = loaded.network(reading), reading.value_range
    with open_source(clip) as source:
        width, height = source.format.width, source.format.height
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    large = ["-s", f"{width * scale}x{height * scale}"]
    decode = ["ffmpeg", "-v", "error", "-i", str(clip), *raw, "-"]
    preset = ["-preset", options.preset] if options.preset else []
    codec = ["-c:v", options.codec or "libx264", *preset, "-crf", "17", "-pix_fmt", "yuv420p"]
    encode = ["ffmpeg", "-v", "error", "-y", *raw, *large, "-r", "24", "-i", "-", *codec, str(folder / "recipe.mkv")]

    def run() -> None:
        with (
            subprocess.Popen(decode, stdout=subprocess.PIPE) as decoder,
            subprocess.Popen(encode, stdin=subprocess.PIPE) as encoder,
            torch.inference_mode(),
        ):
            assert decoder.stdout is not None and encoder.stdin is not None
            while frame := decoder.stdout.read(width * height * 3):
                image = torch.frombuffer(bytearray(frame), dtype=torch.uint8).view(height, width, 3)
                y = network(image.permute(2, 0, 1)[None].float() * (peak / 255))
                pixels = (y * (255 / peak)).round().clamp(0, 255).byte()[0].permute(1, 2, 0).contiguous()
                encoder.stdin.write(pixels.numpy().tobytes())

    return run


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - started:.0f} s in all")
