"""The parts of `gpu.py` that measure: speed against the roofline, contenders side by side, tiles."""

from __future__ import annotations

import contextlib
import functools
import queue
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gpu_session import OutOfTimeError, Session, header, one_line
from roofline import Ceilings, copy_speeds, count_work, matmul_speed, seconds_per_call

from sr_deploy import Upscaler
from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.device.device import Device
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.upscaling.gpu.slots import Context
from sr_deploy.upscaling.gpu.tune import TILES, Measurement, choose, frames_per_second, picture, tune
from sr_deploy.upscaling.tiling import plan_tiles

COPY_BYTES = {True: 1 << 30, False: 1 << 20}
MATMUL_SIDE = {True: 8192, False: 64}
"""On a GPU, and on the CPU that stands for one."""

ROUNDS = {True: 30, False: 2}


@dataclass(frozen=True)
class Contender:
    """Puts one frame, from the device to the device, on a stream; and waits for it."""

    run: Callable[[], object]
    wait: Callable[[], object]


def speed(session: Session) -> Iterator[str]:
    """Inference of whole frames on the device, frames from end to end over the host, and how near that is to the limits."""
    device, on_gpu = session.device, session.on_gpu
    copies = copy_speeds(device, COPY_BYTES[on_gpu])
    yield header("ceiling", "measured")
    for name, rate in copies.items():
        yield f"| copy {name} | {rate / 1e9:.1f} GB/s |"
    matmul, why = _matmul(device, on_gpu)
    product = f"{matmul / 1e12:.3g} TFLOP/s" if matmul else f"missing: {why}"
    yield f"| matrix product in fp16, {MATMUL_SIDE[on_gpu]} a side | {product} |"
    ceilings = Ceilings(copies["on the device"], matmul)
    width, height = session.size
    yield (
        f"\nFrames of {width}x{height}. *bound*: convolutions read and write once in fp16, at the measured ceilings"
        f"{'' if matmul else ', of bytes alone'}. *of the roofline*: bound over inference. "
        "*overlap*: end to end over inference.\n"
    )
    yield header(
        "bundle",
        "backend",
        "GFLOP",
        "GB",
        "bound ms",
        "inference ms",
        "of the roofline",
        "end to end ms",
        "frames/s",
        "overlap",
    )
    for bundle, backend in session.pairs():
        cells = functools.partial(_speed, session, bundle, backend, ceilings)
        yield from session.rows(bundle.card.name, backend, cells=cells)


def contenders(session: Session) -> Iterator[str]:
    """Each provider beside torch, uint8 to uint8 on the device, in turn, round by round."""
    if not session.checkpoints:
        yield "No checkpoint was given, so torch has nothing to run: name files or folders with `--checkpoints`."
    rounds = ROUNDS[session.on_gpu]
    width, height = session.size
    yield f"Frames of {width}x{height}, {rounds} rounds, each contender waited for.\n"
    yield header("bundle", "contender", "median ms", "fastest ms")
    sources = {sha256_of(path): path for path in session.checkpoints}
    for bundle in session.rgb:
        source = bundle.card.source
        checkpoint = sources.get(source.sha256) if source else None
        yield from session.rows(bundle.card.name, cells=functools.partial(_race, session, bundle, checkpoint, rounds))


def tiles(session: Session) -> Iterator[str]:
    """What `sr-deploy tune` finds, and whether the fastest schedule gives the pixels of the whole frame.

    Approximate networks are measured in tiles too, which tune leaves alone; the second mark is the fastest of these.
    """
    width, height = session.size
    yield f"Frames of {width}x{height}, end to end; `*` is what tune chooses of the rows above it.\n"
    yield header("bundle", "backend", "tile", "batch", "in flight", "frames/s", "", "differs from the default schedule")
    for bundle, backend in session.pairs():
        yield from session.rows(bundle.card.name, backend, cells=functools.partial(_tuned, session, bundle, backend))


def _speed(session: Session, bundle: Bundle, backend: str, ceilings: Ceilings) -> Iterable[Sequence[object]]:
    width, height = session.size
    work = count_work(onnx.load(bundle.graph("fp32" if bundle.runs("fp32") else "fp16")), height, width)
    engine = session.engine(bundle, backend)
    contender = on_device(engine, bundle.card.scale, picture(height, width))
    inference = seconds_per_call(contender.run, contender.wait, session.seconds)
    with Upscaler(bundle, backend=backend, schedule=Schedule()) as upscale:
        fps = frames_per_second(upscale, picture(height, width), session.seconds)
    bound = ceilings.bound(work)
    yield (
        f"{work.flops / 1e9:.1f}",
        f"{work.bytes / 1e9:.2f}",
        _ms(bound),
        _ms(inference),
        f"{bound / inference:.2f}",
        _ms(1 / fps),
        f"{fps:.1f}",
        f"{1 / fps / inference:.2f}",
    )


def on_device(engine: DeviceEngine, scale: int, frame: Array) -> Contender:
    """The way of one whole frame on the device through an engine of any form; as a CUDA graph where the engine allows it."""
    device = engine.device
    height, width, channels = frame.shape
    stream = device.stream()
    context = Context(engine, 0, plan_tiles(height, width, tile=0, halo=0, blend=False), (height, width), scale=scale, batch=1)
    source = device.array(frame).reshape((1, height, width, channels))
    large = device.empty((1, height * scale, width * scale, channels), np.uint8)
    enqueue = functools.partial(context.bound(source, large), stream)

    def wait() -> None:
        device.synchronize(stream)

    enqueue()
    wait()
    return Contender(device.graph(enqueue, stream=stream) if engine.capturable else enqueue, wait)


def _race(session: Session, bundle: Bundle, checkpoint: Path | None, rounds: int) -> Iterable[Sequence[object]]:
    width, height = session.size
    frame = picture(height, width)
    makers: dict[str, Callable[[], Contender]] = {
        f"sr-deploy, {backend}": functools.partial(_ours, session, bundle, backend, frame) for backend in session.backends
    }
    if checkpoint is not None:
        makers["torch eager, fp16 channels_last"] = functools.partial(torch_eager, session, bundle, checkpoint, frame)
        makers["torch under a CUDA graph"] = functools.partial(torch_graph, session, bundle, checkpoint, frame)
    ready: dict[str, Contender] = {}
    for name, make in makers.items():
        try:
            ready[name] = make()
        except Exception as exc:
            yield name, f"**failed**: {one_line(exc)}", ""
    for name, seconds in measure(ready, rounds).items():
        yield name, _ms(statistics.median(seconds)), _ms(min(seconds))


def _ours(session: Session, bundle: Bundle, backend: str, frame: Array) -> Contender:
    return on_device(session.engine(bundle, backend), bundle.card.scale, frame)


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds per contender and round, in turn, after three unmeasured rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-3, rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender.run()
            contender.wait()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def torch_eager(session: Session, bundle: Bundle, checkpoint: Path, frame: Array) -> Contender:
    """The published forward in half precision, as it would be written by hand."""
    import torch

    place = torch.device(session.device_name)
    network = _network(bundle, checkpoint).half().to(place, memory_format=torch.channels_last)
    peak = bundle.card.value_range
    source = torch.from_numpy(frame)[None].to(place)
    torch.backends.cudnn.benchmark = True

    def run() -> Any:
        with torch.inference_mode():
            image = source.permute(0, 3, 1, 2).half() * (peak / 255)
            large = network(image.contiguous(memory_format=torch.channels_last))
            return (large * (255 / peak)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    return Contender(run, torch.cuda.synchronize if session.on_gpu else _nothing)


def torch_graph(session: Session, bundle: Bundle, checkpoint: Path, frame: Array) -> Contender:
    """`torch_eager`, recorded once and replayed.

    Raises: RuntimeError without a GPU.
    """
    import torch

    if not session.on_gpu:
        raise RuntimeError("CUDA graphs need a GPU")
    eager = torch_eager(session, bundle, checkpoint, frame)
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(aside):
        for _ in range(3):
            eager.run()
    aside.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = eager.run()

    def replay() -> Any:
        graph.replay()
        return kept

    return Contender(replay, eager.wait)


def _network(bundle: Bundle, checkpoint: Path) -> Any:
    """The original module, read as the bundle's card reads it."""
    from sr_deploy.architectures import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    facts = {**bundle.card.config, "value_range": bundle.card.value_range}
    fitting = [
        reading
        for reading in loaded.readings
        if all(facts.get(name, value) == value for name, value in reading.assumes.items())
        and reading.value_range == bundle.card.value_range
    ]
    return loaded.network((fitting or loaded.readings)[0])


def _tuned(session: Session, bundle: Bundle, backend: str) -> Iterable[Sequence[object]]:
    measured = functools.partial(tune, bundle, backend=backend, size=session.size, seconds=session.seconds / 2, keep=False)
    searches = [measured]
    if bundle.card.tiling == "approximate":
        searches.append(functools.partial(measured, candidates=[Schedule(tile, batch) for tile in TILES for batch in (1, 4)]))
    for search in searches:
        found: list[Measurement] = []
        for one in as_they_come(search, session.deadline):
            found.append(one)
            yield (*_cells(one), "", "")
        best = choose(found)
        yield (*_cells(best), "*", _difference(session, bundle, backend, best.schedule))


def as_they_come(search: Callable[..., object], deadline: float) -> Iterator[Measurement]:
    """What `tune` measures, each when it is; from the deadline on no more is begun.

    Raises: what `search` raises.
    """
    found: queue.SimpleQueue[Measurement | None] = queue.SimpleQueue()

    def tell(one: Measurement) -> None:
        found.put(one)
        if time.monotonic() > deadline:
            raise OutOfTimeError

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(search, progress=tell)
        ended.add_done_callback(lambda _: found.put(None))
        while (one := found.get()) is not None:
            yield one
        with contextlib.suppress(OutOfTimeError):
            ended.result()


def _cells(one: Measurement) -> tuple[object, ...]:
    schedule = one.schedule
    return schedule.tile or "whole", schedule.batch, schedule.slots, f"{one.fps:.1f}" if one.fps else one.problem


def _difference(session: Session, bundle: Bundle, backend: str, schedule: Schedule) -> str:
    width, height = session.size
    results = []
    for one in (Schedule(), schedule):
        with Upscaler(bundle, backend=backend, schedule=one) as upscale:
            results.append(upscale(picture(height, width)).astype(np.int16))
    error = np.abs(results[0] - results[1])
    return f"in {int((error > 0).sum())} of {error.size} bytes, by at most {int(error.max())}"


def _matmul(device: Device, on_gpu: bool) -> tuple[float | None, str]:
    try:
        return matmul_speed(device, MATMUL_SIDE[on_gpu]), ""
    except Exception as exc:
        return None, one_line(exc)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _nothing() -> None:
    pass
