"""Upscaler end to end: frames from and to the host's memory, 1 to 3 in flight, and its pixels against the CPU's."""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

from steps import STEPS, Row, bundle, difference, drained, drop, frame, gpu_backends, guarded, main

NETWORKS = "rlfn_ntire_x4,fast-x4,reprfn_ntire_x4,pan_x4"


def extend(parser: ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=0, help="by default 200, and 3 on the CPU")
    parser.add_argument("--backends", default="", help="of those that use the GPU, by default all that work")
    parser.set_defaults(needs_stand_in=True)


def network(options: Namespace, name: str) -> Iterator[Row]:
    """One network: pixels against ONNX Runtime's on the CPU in fp32, then speed with 1, 2 and 3 frames in flight."""
    from sr_deploy import Upscaler

    one = bundle(name)
    width, height = options.size
    image = frame(height, width)
    started = time.perf_counter()
    with Upscaler(one, backend="onnxruntime", precision="fp32", tile=0) as on_cpu:
        wanted = on_cpu(image)
    yield {"what": "ONNX Runtime on the CPU, fp32", "ms": (time.perf_counter() - started) * 1e3}
    rows: list[Row] = []
    for backend in gpu_backends(options, options.backends):
        for precision in filter(one.runs, ("fp16", "fp32")):
            with guarded(rows, what=f"{backend} {precision} against the CPU"):
                rows.append(_against(one, backend, precision, image, wanted))
            yield from drained(rows)
        with guarded(rows, what=f"{backend} speed"):
            for row in _speed(options, one, backend, image, wanted):
                yield {"what": f"{backend} {row.pop('what')}", **row}
        yield from drained(rows)


def _against(one: Any, backend: str, precision: Any, image: Any, wanted: Any) -> Row:
    from sr_deploy import Upscaler
    from sr_deploy.engines.difference import MAX_LSB, MIN_PSNR
    from sr_deploy.upscaling.gpu.frames import Schedule

    with Upscaler(one, backend=backend, precision=precision, schedule=Schedule()) as upscale:
        told = difference(upscale(image), wanted)
        again = bool((upscale(image) == upscale(image)).all())
        trouble = upscale.stats.trouble
    exact = told["max LSB"] <= MAX_LSB["pixels"]
    held = exact if precision == "fp32" else told["equal"] or told["PSNR dB"] >= MIN_PSNR[precision]
    row = {"what": f"{backend} {precision} against the CPU", **told, "held": "yes" if held else "**no**"}
    return {**row, "same again": again, "trouble": trouble}


def _speed(options: Namespace, one: Any, backend: str, image: Any, wanted: Any) -> Iterator[Row]:
    """Inference alone on the device, then frames from end to end."""
    from gpu_speed import on_device
    from roofline import seconds_per_call

    from sr_deploy.engines import select_backend
    from sr_deploy.upscaling.sentinel import WindowRunner

    windows = WindowRunner(one, backend=select_backend(backend), precision="auto", on_failure="raise", threads=None)
    contender = on_device(windows.device_engine("uint8", 0), one.card.scale, image)
    alone = seconds_per_call(contender.run, contender.wait, 0.5 if options.on_gpu else 1e-3) * 1e3
    yield {"what": f"{windows.precision}, inference on the device", "ms": alone, "frames/s": 1e3 / alone}
    count = options.frames or (200 if options.on_gpu else 3)
    for slots in (1, 2, 3):
        row = _in_flight(one, backend, image, wanted, slots, count)
        yield {"what": f"{windows.precision}, {slots} in flight", "overlap": row["ms"] / alone, **row}


def _in_flight(one: Any, backend: str, image: Any, wanted: Any, slots: int, count: int) -> Row:
    from sr_deploy import Upscaler
    from sr_deploy.pipeline import run_pipeline
    from sr_deploy.upscaling.gpu.frames import Schedule

    last: list[Any] = []
    with Upscaler(one, backend=backend, schedule=Schedule(slots=slots)) as upscale:
        work = partial(upscale._run_tiling, tiling=upscale._plan(*image.shape[:2]))
        run_pipeline(itertools.repeat(image, 4 * slots), work, drop, workers=slots)
        timing = run_pipeline(
            itertools.repeat(image, count), work, lambda large: last.__setitem__(slice(None), [large]), workers=slots
        )
        trouble = upscale.stats.trouble
    ms = timing.wall / timing.items * 1e3
    row = {"frames": timing.items, "ms": ms, "frames/s": 1e3 / ms, "trouble": trouble}
    return {**row, "max LSB": difference(last[0], wanted)["max LSB"]}


for one in NETWORKS.split(","):
    STEPS[one] = (60.0, partial(network, name=one))

if __name__ == "__main__":
    main("Upscaler from end to end", extend)
