"""Does TensorRT for RTX take this GPU? Built in every way that there is, asked, loaded, run; each in a process of its own."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

from steps import STEPS, Row, bundle, difference, frame, main, milliseconds, one_line, step

NETWORK, SMALL = "rlfn_ntire_x4", (128, 96)
ALL = ("*",)
WAYS: dict[str, tuple[str, ...]] = {
    "without targets": (),
    "for the current GPU": ("current",),
    "all listed": ALL,
    **{name: (name,) for name in ("8.0", "8.9", "8.6", "12.0", "7.5")},
}
"""The first names nothing at all, as TensorRT's own examples do."""


def extend(parser: ArgumentParser) -> None:
    parser.add_argument("--network", default=NETWORK)


@step(25)
def library(_: Namespace) -> Iterator[Row]:
    """What it lists, and what the project makes of it."""
    from sr_deploy.device import gpu
    from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, load_library
    from sr_deploy.engines.tensorrt.support import why_not_run

    loaded = load_library(TENSORRT_RTX)
    members = ", ".join(loaded.module.ComputeCapability.__members__)
    yield {"what": str(loaded), "is": f"lists {', '.join(loaded.capabilities())}; members {members}"}
    yield {"what": "GPUs", "is": ", ".join(map(str, gpu.survey().gpus)) or gpu.survey().problem}
    yield {"what": "what the project says", "is": why_not_run(TENSORRT_RTX) or "runs"}
    for name in ("EngineValidity", "EngineInvalidityDiagnostics"):
        yield {"what": name, "is": str({one: int(value) for one, value in getattr(loaded.module, name).__members__.items()})}


def build(options: Namespace, capabilities: tuple[str, ...]) -> Iterator[Row]:
    """Build for one choice of targets and ask; then load, make a context, run, compare with the CPU, time a whole frame."""
    from sr_deploy.engines.tensorrt.build import engine_graph, engine_shapes
    from sr_deploy.engines.tensorrt.compile import compile_engine
    from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, load_library
    from sr_deploy.engines.tensorrt.target import BuildSettings

    loaded, network = load_library(TENSORRT_RTX), bundle(options.network)
    targets = tuple(loaded.capabilities()) if capabilities == ALL else capabilities
    graph = engine_graph(network, precision="fp16", pixels=True)
    width, height = options.size if options.on_gpu else SMALL
    shapes = engine_shapes(graph, BuildSettings(min="64x64", opt=f"{width}x{height}", max=f"{width}x{height}"))
    started = time.perf_counter()
    built = compile_engine(graph, loaded, shapes=shapes, capabilities=targets).engine
    yield {"stage": "built", "is": f"{len(built)} bytes", "s": time.perf_counter() - started}
    try:
        answer = str(loaded.module.Runtime(loaded.logger).get_engine_validity(built))
        yield {"stage": "get_engine_validity", "is": answer}
    except Exception as error:
        yield {"stage": "get_engine_validity", "failed": one_line(error)}
    yield from _run(options, built, loaded, network)


def _run(options: Namespace, built: bytes, loaded: Any, network: Any) -> Iterator[Row]:
    from gpu_speed import on_device

    from sr_deploy import Upscaler
    from sr_deploy.device.device import Device
    from sr_deploy.engines.pixels import INPUT, OUTPUT
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine

    started = time.perf_counter()
    engine = TensorRTEngine(built, loaded, Device(options.device))
    yield {"stage": "loaded", "is": f"{[str(one) for one in engine.inputs]}", "s": time.perf_counter() - started}
    image = frame(SMALL[1], SMALL[0])
    started = time.perf_counter()
    large = engine.run({INPUT: image[None]})[OUTPUT][0]
    means = f"mean {large.mean():.1f} of {image.mean():.1f}"
    yield {"stage": "ran, first time", "is": means, "s": time.perf_counter() - started}
    with Upscaler(network, backend="onnxruntime", precision="fp32", tile=0) as on_cpu:
        yield {"stage": "against the CPU in fp32", **difference(large, on_cpu(image))}
    width, height = options.size
    started = time.perf_counter()
    contender = on_device(engine, network.card.scale, frame(height, width))
    first = time.perf_counter() - started
    way = "under a CUDA graph" if engine.capturable else "without a graph"
    ms = milliseconds(contender.run, contender.wait, seconds=0.7)
    yield {"stage": f"{width}x{height} on the device", "is": way, "ms": ms, "s": first}


for name, capabilities in WAYS.items():
    STEPS[name] = (45.0, partial(build, capabilities=capabilities))

if __name__ == "__main__":
    main("TensorRT for RTX on this GPU", extend)
