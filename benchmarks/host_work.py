"""What a frame costs the host's processor beside the GPU: Slot.run with an engine that does nothing, and kernels likewise.

    python benchmarks/host_work.py [--size 960x540] [--rounds 300]

On NVIDIA Warp's CPU device, piece by piece, as where no CUDA graph can be recorded; with one, it is less. Copies between the
host and the device are left out, since a GPU makes them; the copy of the frame into page-locked memory is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray, load_warp
from sr_deploy.device.streams import Stream
from sr_deploy.engines.engine import DeviceEngine, TensorSpec
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT
from sr_deploy.engines.planes import LEVELS
from sr_deploy.upscaling.gpu.frames import FrameRunner
from sr_deploy.upscaling.tiling import plan_tiles

SCALE = 4
TILES = (0, 256)


class EmptyEngine(DeviceEngine):
    """Takes and gives what an engine of a form does, and leaves it as it is."""

    capturable, contexts = True, len(TILES)

    def __init__(self, device: Device, inputs: TensorSpec, *outputs: TensorSpec) -> None:
        super().__init__()
        self.device = device
        self.inputs, self.outputs, self.description = (inputs,), outputs, "nothing"

    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        del arrays, stream, context

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        raise NotImplementedError


def engines(device: Device) -> dict[str, EmptyEngine]:
    """By the form of the graph that they stand for."""

    def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, np.dtype(dtype), shape)

    planar, byte_form = (-1, 3 * SCALE**2, -1, -1), (-1, -1, -1, 3)
    return {
        "pixels": EmptyEngine(
            device, spec(INPUT, "uint8", *byte_form), spec(OUTPUT, "uint8", *byte_form), spec(HEALTH, "float32", -1)
        ),
        "planes": EmptyEngine(device, spec("input", "float16", -1, 3, -1, -1), spec(LEVELS, "float16", *planar)),
    }


@contextlib.contextmanager
def nothing_computed() -> Iterator[None]:
    """Kernels compute nothing, and nothing is copied between host and device; all that calls them runs."""
    load_warp()
    with mock.patch("warp._src.context.invoke"), mock.patch.object(Device, "copy"):
        yield


def microseconds(run: Callable[[], object], rounds: int) -> float:
    """Median of the rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="960x540", help="WIDTHxHEIGHT of frames")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    frame = np.full((height, width, 3), 128, np.uint8)
    place = np.empty((1, *frame.shape), np.uint8)
    copy = microseconds(lambda: np.copyto(place[0], frame), options.rounds)
    print("| form | tiles | a frame, us | of that its copy, us | beside it, us |\n|---|---|---|---|---|")
    for form, engine in engines(Device("cpu")).items():
        for tile in TILES:
            tiling = plan_tiles(height, width, tile=tile, halo=16 if tile else 0, blend=False)
            runner = FrameRunner([engine], tiling, (height, width), scale=SCALE, slots=1)
            with nothing_computed():
                runner.run(frame)
                whole = microseconds(functools.partial(runner.run, frame), options.rounds)
            print(f"| {form} | {len(tiling)} | {whole:.0f} | {copy:.0f} | {whole - copy:.0f} |")


if __name__ == "__main__":
    main()
