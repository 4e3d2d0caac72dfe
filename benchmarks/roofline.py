"""What a network must compute and move, counted from its graph, and what a GPU can, measured on it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from sr_deploy.device.device import Device
from sr_deploy.engines.facts import infer_shapes

FP16 = 2
"""Bytes."""

_GROUPS = 5


@dataclass(frozen=True)
class Work:
    """Of one frame: floating point operations (two per multiply-accumulate), and bytes that convolutions read and write."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Ceilings:
    """Bytes per second of a copy on the device, read and write both counted, and FLOP/s of a matrix product in fp16.

    `matmul` is None where nothing is installed that could measure it.
    """

    copy: float
    matmul: float | None

    def bound(self, work: Work) -> float:
        """Seconds that no engine can beat which runs layer by layer."""
        return max(work.bytes / self.copy, work.flops / self.matmul if self.matmul else 0.0)


def count_work(model: ModelProto, height: int, width: int) -> Work:
    """Of one frame. Convolutions read input and weights once and write output once, in fp16; all else is fused into them."""
    shapes = infer_shapes(model, height, width)
    flops, moved = 0.0, 0.0
    for node in model.graph.node:
        if node.op_type not in {"Conv", "ConvTranspose"}:
            continue
        source, weight, target = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        pixels = target[2:] if node.op_type == "Conv" else source[2:]
        flops += 2.0 * math.prod(weight) * math.prod(pixels)
        moved += FP16 * (math.prod(source) + math.prod(weight) + math.prod(target))
    return Work(flops, moved)


def copy_speeds(device: Device, size: int) -> dict[str, float]:
    """Bytes per second for arrays of `size` bytes: on the device (read and write counted), from and to page-locked memory."""
    here, there, host = device.empty((size,), "uint8"), device.empty((size,), "uint8"), device.host((size,), "uint8")
    stream = device.stream()
    pairs = {"on the device": (here, there, 2), "to the device": (here, host, 1), "from the device": (host, here, 1)}

    def speed(target: object, source: object, factor: int) -> float:
        def copy() -> None:
            device.copy(target, source, stream=stream)

        return factor * size / seconds_per_call(copy, lambda: device.synchronize(stream), 0.1)

    return {name: speed(*pair) for name, pair in pairs.items()}


def matmul_speed(device: Device, side: int) -> float:
    """FLOP/s of a square product in fp16, by torch, else by CuPy.

    Raises: ImportError when neither is there; RuntimeError when torch has no CUDA.
    """
    try:
        import torch
    except ImportError:
        return _cupy_matmul_speed(side)
    if device.is_gpu and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} has no CUDA here")
    place = torch.device(device.name)
    first, second = (torch.randn(side, side, device=place).half() for _ in range(2))
    wait = torch.cuda.synchronize if device.is_gpu else _nothing
    return 2 * side**3 / seconds_per_call(lambda: torch.matmul(first, second), wait, 0.2)


def seconds_per_call(call: Callable[[], object], wait: Callable[[], object], seconds: float) -> float:
    """Median over groups of calls, each put on a stream one after the other and then waited for; `seconds` in all, about."""
    for _ in range(3):
        call()
    wait()
    started = time.perf_counter()
    call()
    wait()
    once = max(time.perf_counter() - started, 1e-7)
    repeats = max(1, round(seconds / _GROUPS / once))
    groups = []
    for _ in range(_GROUPS):
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        wait()
        groups.append((time.perf_counter() - started) / repeats)
    return statistics.median(groups)


def _cupy_matmul_speed(side: int) -> float:
    import cupy  # type: ignore[import-not-found]

    first, second = (cupy.random.rand(side, side).astype("float16") for _ in range(2))
    wait = cupy.cuda.Device().synchronize
    return 2 * side**3 / seconds_per_call(lambda: cupy.matmul(first, second), wait, 0.2)


def _nothing() -> None:
    pass
