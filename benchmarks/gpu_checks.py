"""The parts of `gpu.py` that check: machine, kernels, arrays, certificate, TensorRT for RTX."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata

import kernel_references as reference
import numpy as np
from gpu_session import NOT_A_GPU, Session, header, one_line

from sr_deploy import Upscaler, engines
from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.card import Link
from sr_deploy.device import gpu
from sr_deploy.device.device import Device
from sr_deploy.device.gpu import find_gpus
from sr_deploy.device.tiling import DeviceTiling, HealthMeter
from sr_deploy.engines.parity import verify
from sr_deploy.engines.pixels import INPUT, OUTPUT
from sr_deploy.engines.tensorrt.build import engine_graph, engine_shapes
from sr_deploy.engines.tensorrt.compile import compile_engine
from sr_deploy.engines.tensorrt.library import TENSORRT_RTX, Library, load_library
from sr_deploy.engines.tensorrt.support import WAYS
from sr_deploy.engines.tensorrt.target import BuildSettings
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.upscaling.gpu.tune import picture
from sr_deploy.upscaling.tiling import Tiling, plan_tiles

CASES = 12
"""Random tilings per kernel."""

SIZES = ((61, 75), (96, 128), (130, 97))
"""Of frames, (height, width)."""

PACKAGES = ("sr-deploy", "warp-lang", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13-libs",
            "torch", "cupy-cuda12x", "cupy-cuda13x", "numpy")  # fmt: skip


def machine(session: Session) -> Iterator[str]:
    """GPU, driver and CUDA; which runtimes load, and why not."""
    found = gpu.survey()
    yield header("what", "")
    if not found.gpus:
        yield f"| GPU | none: {found.problem}; {found.remedy} |"
    for number, one in enumerate(found.gpus):
        yield f"| GPU {number} | {one}, {one.memory / 1e9:.1f} GB |"
    yield f"| driver | {found.driver or 'unknown'}, for CUDA up to {found.cuda or 'unknown'} |"
    yield f"| system | {platform.platform(terse=True)}, Python {platform.python_version()} |"
    for name in PACKAGES:
        yield f"| {name} | {_version(name)} |"
    for name, here in gpu.video_libraries().items():
        yield f"| {name} | {'its library loads' if here else 'no library'} |"
    for backend in engines.BACKENDS:
        if backend.device == "cuda":
            yield f"| backend {backend.name} | {backend.problem() or 'works'} |"
    yield f"| device of the kernels | {session.device_name}{'' if session.on_gpu else f' ({NOT_A_GPU})'} |"


def kernels(session: Session) -> Iterator[str]:
    """Each kernel against numpy, bit for bit, on random sizes and tilings; the first is one pixel."""
    device = session.device
    yield header("kernel", "tilings", "bit-equal to numpy")
    for name, check in KERNELS.items():
        random = np.random.default_rng(5)
        tilings = [_tiling(random, tiny=index == 0) for index in range(CASES)]
        equal = functools.partial(_count_equal, check, device, tilings, random)
        yield from session.rows(name, len(tilings), cells=equal)


def arrays(session: Session) -> Iterator[str]:
    """`Upscaler` on arrays of the device against arrays of the host, bit for bit, whole and in tiles."""
    yield header("bundle", "backend", "frames", "equal: whole", "equal: in tiles")
    for bundle, backend in session.pairs():
        equal = functools.partial(_equal_on_device, session, bundle, backend)
        yield from session.rows(bundle.card.name, backend, len(SIZES), cells=equal)


def certificate(session: Session) -> Iterator[str]:
    """Every graph and pixel form on every backend against the original module's outputs; the worst probe of each."""
    yield header("bundle", "graph", "worst probe", "max LSB", "PSNR dB", "floor", "held")
    for bundle, backend in session.pairs(session.bundles):
        yield from session.rows(bundle.card.name, cells=functools.partial(_worst_links, bundle, backend))


def rtx(session: Session) -> Iterator[str]:
    """Whether TensorRT for RTX takes this GPU, whatever its list says: built ahead, asked, loaded, run."""
    if not session.rgb:
        yield "No RGB bundle was given."
        return
    library = load_library(TENSORRT_RTX)
    (found, *_) = find_gpus()
    yield f"TensorRT for RTX {library.version} lists {', '.join(library.capabilities())}; this is {found}.\n"
    yield header("built for", "built", "get_engine_validity", "loaded", "run")
    for way, capabilities in {**WAYS, **_listed(library, found.capability)}.items():
        yield from session.rows(way, cells=functools.partial(_try_rtx, session, library, capabilities))


def _count_equal(
    check: Callable[[Device, Tiling, np.random.Generator], bool],
    device: Device,
    tilings: Sequence[Tiling],
    random: np.random.Generator,
) -> Iterable[Sequence[object]]:
    return [(sum(check(device, tiling, random) for tiling in tilings),)]


def _equal_on_device(session: Session, bundle: Bundle, backend: str) -> Iterable[Sequence[object]]:
    counts = []
    for schedule in (Schedule(), Schedule(tile=32, batch=2)):
        with Upscaler(bundle, backend=backend, schedule=schedule) as upscale:
            counts.append(sum(_is_same_on_device(upscale, picture(*size), session.device) for size in SIZES))
    return [counts]


def _worst_links(bundle: Bundle, backend: str) -> Iterable[Sequence[object]]:
    worst: dict[str, Link] = {}
    for link in verify(bundle, backend=backend):
        if link.target not in worst or link.psnr < worst[link.target].psnr:
            worst[link.target] = link
    for link in worst.values():
        yield link.target, link.probe, link.max_lsb, link.psnr, link.floor, "yes" if link.passed else "**no**"


def _listed(library: Library, own: str) -> dict[str, tuple[str, ...]]:
    """Ways to build with compute capabilities that are listed: all, one that most newer GPUs are said to run, this GPU's."""
    listed = tuple(library.capabilities())
    return {", ".join(one): one for one in (listed, ("8.0",), (own,)) if set(one) <= set(listed)}


def _try_rtx(session: Session, library: Library, capabilities: tuple[str, ...]) -> Iterable[Sequence[object]]:
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine

    bundle = session.rgb[0]
    graph = engine_graph(bundle, precision="fp16" if bundle.runs("fp16") else "fp32", pixels=True)
    shapes = engine_shapes(graph, BuildSettings(static="128x96"))
    try:
        contents = compile_engine(graph, library, shapes=shapes, capabilities=capabilities).engine
    except Exception as exc:
        return [(f"no: {one_line(exc)}", "-", "-", "-")]
    answers: list[object] = [f"{len(contents)} bytes", _validity(library, contents)]
    try:
        engine = TensorRTEngine(contents, library, session.device)
    except Exception as exc:
        return [(*answers, f"no: {one_line(exc)}", "-")]
    with engine:
        try:
            large = engine.run({INPUT: picture(96, 128)[None]})[OUTPUT]
        except Exception as exc:
            return [(*answers, "yes", f"no: {one_line(exc)}")]
    return [(*answers, "yes", f"yes, mean {large.mean():.1f} of an input of {picture(96, 128).mean():.1f}")]


def _validity(library: Library, contents: bytes) -> str:
    try:
        answer = library.module.Runtime(library.logger).get_engine_validity(contents)
    except Exception as exc:
        return one_line(exc)
    return str(answer)


def _is_same_on_device(upscale: Upscaler, image: Array, device: Device) -> bool:
    there = upscale.on_device(device.array(image))
    return bool(np.array_equal(there.numpy(), upscale(image)))


def _tiling(random: np.random.Generator, *, tiny: bool) -> Tiling:
    height, width = (1, 1) if tiny else random.integers(20, 150, 2)
    tile, halo = int(random.choice([0, 9, 32])), int(random.integers(0, 8))
    return plan_tiles(int(height), int(width), tile=tile, halo=halo, blend=bool(random.integers(0, 2)))


def _on(device: Device, tiling: Tiling, scale: int) -> DeviceTiling:
    rows, columns = ([axis.region(index) for index in range(len(axis.starts))] for axis in (tiling.rows, tiling.columns))
    return DeviceTiling(device, rows, columns, window=tiling.window, scale=scale)


def _frame(tiling: Tiling, random: np.random.Generator) -> Array:
    return random.integers(0, 256, (tiling.rows.size, tiling.columns.size, 3), dtype=np.uint8)


def _gathered(device: Device, tiling: Tiling, frame: Array, shape: tuple[int, ...], dtype: str) -> Array:
    tiles = device.empty(shape, dtype)
    _on(device, tiling, 1).gather(device.array(frame[None]), tiles)
    return np.asarray(tiles.numpy())


def _scattered(device: Device, tiling: Tiling, tiles: Array, scale: int) -> Array:
    frames = device.empty((1, tiling.rows.size * scale, tiling.columns.size * scale, 3), "uint8")
    _on(device, tiling, scale).scatter(device.array(tiles), frames)
    return np.asarray(frames.numpy()[0])


def _measured(device: Device, tiles: Array) -> Array:
    meter = HealthMeter(device, len(tiles))
    meter.measure(device.array(tiles))
    return np.asarray(meter.means.numpy())


def _gathers_bytes(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    frame = _frame(tiling, random)
    found = _gathered(device, tiling, frame, (len(tiling), *tiling.window, 3), "uint8")
    return bool(np.array_equal(found, reference.cut(tiling, frame)))


def _gathers_floats(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    frame = _frame(tiling, random)
    found = _gathered(device, tiling, frame, (len(tiling), 3, *tiling.window), "float16")
    return bool(np.array_equal(found, reference.to_planar(reference.cut(tiling, frame))))


def _scatters_bytes(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    scale = int(random.integers(1, 5))
    tiles = random.integers(0, 256, (len(tiling), *(side * scale for side in tiling.window), 3), dtype=np.uint8)
    return bool(np.array_equal(_scattered(device, tiling, tiles, scale), reference.join(tiling, tiles, scale)))


def _scatters_floats(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    scale = int(random.integers(1, 5))
    shape = (len(tiling), 3, *(side * scale for side in tiling.window))
    tiles = random.uniform(-0.2, 1.2, shape).astype(np.float16)
    return bool(
        np.array_equal(_scattered(device, tiling, tiles, scale), reference.join(tiling, reference.to_levels(tiles), scale))
    )


def _scatters_planes(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    """Levels before a pixel shuffle, and the sums of their magnitudes."""
    scale = int(random.integers(1, 5))
    planes = random.uniform(-20, 280, (len(tiling), 3 * scale**2, *tiling.window)).astype(np.float16)
    large = device.empty((1, tiling.rows.size * scale, tiling.columns.size * scale, 3), "uint8")
    target = _on(device, tiling, scale)
    magnitudes = target.magnitudes(len(tiling))
    target.scatter(device.array(planes), large, white=255.0, magnitudes=magnitudes)
    tiles = reference.shuffled(planes, scale)
    joined = reference.join(tiling, reference.to_levels(tiles, white=255.0), scale)
    return np.array_equal(large.numpy()[0], joined) and np.array_equal(magnitudes.numpy(), reference.magnitudes(tiles, scale))


def _measures_bytes(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    tiles = random.integers(0, 256, (len(tiling), *tiling.window, 3), dtype=np.uint8)
    return bool(np.array_equal(_measured(device, tiles), reference.health(tiles)))


def _measures_floats(device: Device, tiling: Tiling, random: np.random.Generator) -> bool:
    tiles = random.normal(0.5, 1.0, (len(tiling), 3, *tiling.window)).astype(np.float16)
    return bool(np.array_equal(_measured(device, tiles), reference.health(tiles)))


KERNELS: dict[str, Callable[[Device, Tiling, np.random.Generator], bool]] = {
    "gather uint8 to uint8": _gathers_bytes,
    "gather uint8 to fp16": _gathers_floats,
    "scatter uint8 to uint8": _scatters_bytes,
    "scatter fp16 to uint8": _scatters_floats,
    "scatter fp16 planes to uint8": _scatters_planes,
    "health of uint8": _measures_bytes,
    "health of fp16": _measures_floats,
}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
