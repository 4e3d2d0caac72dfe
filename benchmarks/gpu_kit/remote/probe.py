"""First call: what the machine is and can do, and RLFN-NTIRE in torch. Needs torch alone, no other wheel."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import queue
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from steps import Row, frame, main, milliseconds, step
from torch_network import Lane, forward, load, place_of, record

PACKAGES = ("torch", "triton", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "warp-lang", "cupy-cuda13x", "cuda-core",
            "cuda-bindings", "opencv-python-headless", "nvidia-cublas", "nvidia-cudnn-cu13")  # fmt: skip
LIBRARIES = (
    "libcuda.so.1",
    "libnvcuvid.so.1",
    "libnvidia-encode.so.1",
    "libnvrtc.so.13",
    "libcublas.so.13",
    "libcudnn.so.9",
    "libcurand.so.10",
    "libcudart.so.13",
    "libnvinfer.so.11",
)
FRAME_4K, FRAME_540 = 3840 * 2160 * 3, 960 * 540 * 3


@step(25)
def machine(options: Namespace) -> Iterator[Row]:
    asked = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,pcie.link.gen.max,pcie.link.width.max"
    with contextlib.suppress(Exception):
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
        yield {"what": asked, "is": (answer.stdout or answer.stderr).strip()}
    known = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    yield {"what": "packages", "is": ", ".join(f"{name} {known[name]}" for name in PACKAGES if name in known)}
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    yield {"what": "CPU", "is": f"{os.cpu_count()} x {model}"}
    yield {
        "what": "system",
        "is": f"{platform.platform()}, Python {platform.python_version()}, {' '.join(platform.libc_ver())}",
    }
    yield {"what": "libraries", "is": ", ".join(f"{name} {_loads(name)}" for name in LIBRARIES)}
    folders = sorted({str(path.parent) for base in sys.path for path in Path(base or ".").glob("nvidia/*/lib/*.so*")})
    yield {"what": "nvidia folders", "is": " ".join(folders)}
    import torch

    if options.on_gpu:
        one = torch.cuda.get_device_properties(0)
        memory = f"{one.total_memory / 1e9:.1f} GB; free and all: {torch.cuda.mem_get_info()}"
        parts = f"{one.multi_processor_count} multiprocessors, L2 {one.L2_cache_size >> 20} MB"
        yield {"what": "torch's GPU", "is": f"{one.name}, {one.major}.{one.minor}, {parts}, {memory}"}


@step(40)
def copies(options: Namespace) -> Iterator[Row]:
    """To, from and on the device, of several sizes; and both ways at once."""
    for what, count in (("24.9 MB, a 4K frame", FRAME_4K), ("1.6 MB, its source", FRAME_540), ("512 MB", 512 << 20)):
        count = count if options.on_gpu else min(count, 1 << 20)
        yield from ({"bytes": what, **row} for row in _copies_of(count, options))
    if options.on_gpu:
        ms = milliseconds(_both_ways(options), place_of(options)[1], seconds=0.3)
        yield {"bytes": "24.9 MB each way", "way": "both ways at once", "ms": ms, "GB/s": 2 * FRAME_4K / ms / 1e6}


def _copies_of(count: int, options: Namespace) -> Iterator[Row]:
    import torch

    place, wait = place_of(options)
    there = torch.empty(count, dtype=torch.uint8, device=place)
    pinned = torch.empty(count, dtype=torch.uint8, pin_memory=options.on_gpu)
    plain = torch.empty(count, dtype=torch.uint8)
    other = torch.empty_like(there)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "to the device, pinned": (lambda: there.copy_(pinned, non_blocking=True), 1),
        "from the device, pinned": (lambda: pinned.copy_(there, non_blocking=True), 1),
        "from the device, pageable": (lambda: plain.copy_(there), 1),
        "on the device, read and write": (lambda: other.copy_(there), 2),
    }
    for way, (run, factor) in ways.items():
        ms = milliseconds(run, wait, seconds=0.3)
        yield {"way": way, "ms": ms, "GB/s": factor * count / ms / 1e6}


def _both_ways(options: Namespace) -> Callable[[], object]:
    import torch

    place, _ = place_of(options)
    one, two = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    up, down = (torch.empty(FRAME_4K, dtype=torch.uint8, pin_memory=True) for _ in range(2))
    here, there = (torch.empty(FRAME_4K, dtype=torch.uint8, device=place) for _ in range(2))

    def run() -> None:
        with torch.cuda.stream(one):
            here.copy_(up, non_blocking=True)
        with torch.cuda.stream(two):
            down.copy_(there, non_blocking=True)

    return run


@step(50)
def ceilings(options: Namespace) -> Iterator[Row]:
    """Matrix products, 3x3 convolutions of several widths, and a copy; random data, since zeros run faster."""
    import torch

    torch.backends.cudnn.benchmark = True
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        yield _matrix_product(options, kind)
    for channels in (46, 48, 64):
        yield _convolution(options, channels)
    place, wait = place_of(options)
    count = (4 << 30) if options.on_gpu else 1 << 20
    a, b = (torch.empty(count // 2, dtype=torch.float16, device=place).normal_() for _ in range(2))
    ms = milliseconds(lambda: b.copy_(a), wait, seconds=0.5)
    yield {"what": f"copy of {count >> 20} MB on the device", "ms": ms, "GB/s": 2 * count / ms / 1e6}


def _matrix_product(options: Namespace, kind: Any) -> Row:
    import torch

    place, wait = place_of(options)
    side = 8192 if options.on_gpu else 128
    a, b = (torch.randn(side, side, device=place).to(kind) for _ in range(2))
    ms = milliseconds(lambda: torch.matmul(a, b), wait, seconds=0.7)
    name = str(kind).removeprefix("torch.")
    return {"what": f"matrix product, {side} a side, {name}", "ms": ms, "TFLOP/s": 2 * side**3 / ms / 1e9}


def _convolution(options: Namespace, channels: int) -> Row:
    import torch

    place, wait = place_of(options)
    width, height = options.size
    x = torch.randn(1, channels, height, width, device=place).half().to(memory_format=torch.channels_last)
    layer: Any = torch.nn.Conv2d(channels, channels, 3, padding=1)
    layer = layer.to(place, memory_format=torch.channels_last).half()
    with torch.inference_mode():
        ms = milliseconds(lambda: layer(x), wait, seconds=0.3)
    flops, moved = 2 * 9 * channels**2 * width * height, 2 * 2 * channels * width * height
    what = f"3x3, {channels} channels, fp16 channels_last"
    return {"what": what, "ms": ms, "TFLOP/s": flops / ms / 1e9, "GB/s": moved / ms / 1e6}


@step(45)
def rlfn(options: Namespace) -> Iterator[Row]:
    """RLFN-NTIRE, uint8 to uint8 on the device: fp16 against fp32, eager and as a CUDA graph."""
    import torch

    place, wait = place_of(options)
    height, width = options.size[1], options.size[0]
    source = torch.from_numpy(frame(height, width))[None].to(place)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    reference = forward(load(place, half=False), source, half=False, rounded=False)()
    torch.backends.cudnn.benchmark = True
    loaded = load(place, half=True)
    found = forward(loaded, source, half=True, rounded=False)()
    error = (found - reference).double()
    levels = (found.round().clamp(0, 255) - reference.round().clamp(0, 255)).abs()
    yield {
        "what": "fp16 against fp32",
        "PSNR dB": 10 * float(torch.log10(255**2 / (error**2).mean())),
        "max LSB": float(levels.max()),
        "bytes differing": f"{int((levels > 0).sum())} of {levels.numel()}",
    }
    run = forward(loaded, source, half=True, rounded=True)
    yield {"what": "eager, fp16 channels_last", "ms": milliseconds(run, wait, seconds=1.0)}
    if options.on_gpu:
        graph, kept = record(run)
        yield {"what": "under a CUDA graph", "ms": milliseconds(graph.replay, wait, seconds=1.0)}
        yield {"what": "the graph's bytes", "bytes differing": f"{int((kept != run()).sum())} of {kept.numel()} from eager's"}
        yield {"what": "memory at most", "MB": torch.cuda.max_memory_allocated() >> 20}
        activity = torch.profiler.ProfilerActivity.CUDA
        with torch.profiler.profile(activities=[activity]) as seen:
            for _ in range(5):
                run()
            wait()
        for one in sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)[:10]:
            yield {"what": f"kernel {one.key[:90]}", "ms": one.self_device_time_total / 5e3, "calls": one.count / 5}


@step(75)
def pipeline(options: Namespace) -> Iterator[Row]:
    """What this machine allows end to end: frames from and to pinned memory through torch's graphs, 1 to 4 in flight."""
    import torch

    place, wait = place_of(options)
    width, height = options.size
    loaded, image, count, alone = load(place, half=True), frame(height, width), 200 if options.on_gpu else 3, 0.0
    torch.backends.cudnn.benchmark = True
    for slots in (1, 2, 3, 4):
        lanes = [Lane(loaded, image, options.on_gpu) for _ in range(slots)]
        alone = alone or milliseconds(lanes[0].infer, wait, seconds=0.3)
        ms = _milliseconds_per_frame(lanes, count)
        yield {
            "in flight": slots,
            "frames": count,
            "end to end ms": ms,
            "frames/s": 1e3 / ms,
            "inference ms": alone,
            "overlap": ms / alone,
        }


def _milliseconds_per_frame(lanes: list[Lane], count: int) -> float:
    """Of `count` frames through all lanes at once, after two frames each."""
    idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    for lane in lanes:
        idle.put(lane)

    def work(_: int) -> None:
        lane = idle.get()
        lane.run()
        idle.put(lane)

    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(work, range(2 * len(lanes))))
        started = time.perf_counter()
        list(pool.map(work, range(count)))
    return (time.perf_counter() - started) / count * 1e3


@step(60)
def compiled(options: Namespace) -> Iterator[Row]:
    """torch.compile, last since it may take long."""
    import torch

    place, wait = place_of(options)
    width, height = options.size
    source = torch.from_numpy(frame(height, width))[None].to(place)
    torch.backends.cudnn.benchmark = True
    loaded = load(place, half=True)
    eager = forward(loaded, source, half=True, rounded=True)()
    for mode in ("default", "reduce-overhead"):
        torch._dynamo.reset()
        run = forward(torch.compile(loaded, mode=mode), source, half=True, rounded=True)
        started = time.perf_counter()
        found = run().clone()
        wait()
        first = time.perf_counter() - started
        yield {
            "what": f"torch.compile, {mode}",
            "ms": milliseconds(run, wait, seconds=1.0),
            "first s": first,
            "bytes differing": f"{int((found != eager).sum())} of {eager.numel()} from eager's",
        }


def _loads(library: str) -> str:
    try:
        ctypes.CDLL(library)
    except OSError:
        return "missing"
    return "loads"


if __name__ == "__main__":
    main("The machine, its ceilings, and RLFN-NTIRE in torch")
