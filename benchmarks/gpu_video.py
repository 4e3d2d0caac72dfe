"""The part `video` of `gpu.py`: frames as decoders give and encoders take them, to RGB and back on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import video_references as reference
from gpu_session import Session, header
from roofline import seconds_per_call

from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.device import gpu
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.nvenc import load_library
from sr_deploy.device.video_planes import DevicePlanes, PlaneFormat
from sr_deploy.device.ycbcr import Meaning
from sr_deploy.errors import BackendUnavailableError
from sr_deploy.upscaling.gpu.slots import Context
from sr_deploy.upscaling.gpu.tune import picture
from sr_deploy.upscaling.tiling import plan_tiles

DEPTHS = {"nv12": (8, 0), "p010le": (10, 6)}
"""Bits of a code, and the zeros below it."""

CASES = 6


def video(session: Session) -> Iterator[str]:
    """NV12 and P010 to RGB and back against numpy, bit for bit; their speed; and whole frames from codes to codes."""
    yield header("what", "")
    for name, here in gpu.video_libraries().items():
        yield f"| {name} | {'its library loads' if here else 'no library'} |"
    try:
        load_library()
        yield "| PyNvVideoCodec | loads; codes are from memory |"
    except BackendUnavailableError as exc:
        yield f"| PyNvVideoCodec | {exc} |"
    width, height = session.size
    yield f"\nFrames of {width}x{height}, in BT.709; bytes read and written are counted once.\n"
    yield header("codes", "way", "frames", "equal to numpy", "ms", "GB/s")
    for name in DEPTHS:
        for way, check, work in (("to RGB", _gives_rgb, _to_rgb), ("from RGB", _gives_codes, _from_rgb)):
            yield from session.rows(name, way, CASES, cells=functools.partial(_checked, session, name, check, work))
    yield "\n" + header("bundle", "backend", "codes", "on the device ms", "from and to the host ms", "frames/s")
    for bundle, backend in session.pairs([bundle for bundle in session.rgb if bundle.card.masked is None]):
        yield from session.rows(bundle.card.name, backend, cells=functools.partial(_whole, session, bundle, backend))


def planes_of(device: Device, name: str, size: tuple[int, int]) -> DevicePlanes:
    """What turns codes of that format into RGB and back, for frames of `size` (H,W)."""
    return DevicePlanes(device, PlaneFormat(size, name, Meaning(reference.BT709, full=False)))


def _checked(
    session: Session,
    name: str,
    check: Callable[[Device, str, np.random.Generator], bool],
    work: Callable[[Device, str, tuple[int, int]], tuple[Callable[[], object], int]],
) -> Iterable[Sequence[object]]:
    random, (width, height) = np.random.default_rng(7), session.size
    equal = sum(check(session.device, name, random) for _ in range(CASES))
    run, moved = work(session.device, name, (height, width))
    seconds = seconds_per_call(run, session.device.synchronize, session.seconds / 4)
    yield equal, f"{seconds * 1e3:.3f}", f"{moved / seconds / 1e9:.1f}"


def _gives_rgb(device: Device, name: str, random: np.random.Generator) -> bool:
    depth, padding = DEPTHS[name]
    height, width = map(int, random.integers(1, 90, 2))
    luma = random.integers(0, 2**depth, (height, width))
    chroma = random.integers(0, 2**depth, (-(-height // 2), -(-width // 2), 2))
    frame = device.empty((1, height, width, 3), np.uint8)
    planes = planes_of(device, name, (height, width))
    planes.to_rgb(_on(device, planes.empty(), _flat(luma, chroma, padding)), frame)
    device.synchronize()
    return bool(np.array_equal(frame.numpy()[0], reference.to_rgb(luma, chroma, depth)))


def _gives_codes(device: Device, name: str, random: np.random.Generator) -> bool:
    depth, padding = DEPTHS[name]
    pixels = random.integers(0, 256, (*map(int, random.integers(1, 90, 2)), 3), dtype=np.uint8)
    planes = planes_of(device, name, pixels.shape[:2])
    codes = planes.empty()
    planes.from_rgb(device.array(pixels[None]), codes)
    device.synchronize()
    return bool(np.array_equal(codes.numpy(), _flat(*reference.to_codes(pixels, depth), padding)))


def _flat(luma: Array, chroma: Array, padding: int) -> Array:
    return np.concatenate([luma.ravel(), chroma.ravel()]) << padding


def _on(device: Device, codes: DeviceArray, values: Array) -> DeviceArray:
    host = device.host(codes.shape, codes.dtype.__name__)
    host.numpy()[...] = values
    device.copy(codes, host)
    return codes


def _to_rgb(device: Device, name: str, size: tuple[int, int]) -> tuple[Callable[[], object], int]:
    planes, frame = planes_of(device, name, size), device.empty((1, *size, 3), np.uint8)
    codes = _on(device, planes.empty(), np.full(planes.format.count, 100 << DEPTHS[name][1]))
    return lambda: planes.to_rgb(codes, frame), _moved(codes, frame)


def _from_rgb(device: Device, name: str, size: tuple[int, int]) -> tuple[Callable[[], object], int]:
    planes, frame = planes_of(device, name, size), device.array(picture(*size)[None])
    codes = planes.empty()
    return lambda: planes.from_rgb(frame, codes), _moved(codes, frame)


def _moved(codes: DeviceArray, frame: DeviceArray) -> int:
    return int(codes.size * np.dtype(codes.dtype.__name__).itemsize + frame.size)


def _whole(session: Session, bundle: Bundle, backend: str) -> Iterator[Sequence[object]]:
    """Codes -> RGB -> engine -> codes, on one stream; then the same with the codes from and to page-locked memory."""
    device, scale, (width, height) = session.device, bundle.card.scale, session.size
    engine, stream = session.engine(bundle, backend), device.stream()
    whole = plan_tiles(height, width, tile=0, halo=0, blend=False)
    context = Context(engine, 0, whole, (height, width), scale=scale, batch=1)
    frame, result = device.array(picture(height, width)[None]), device.empty((1, height * scale, width * scale, 3), np.uint8)
    upscale = context.bound(frame, result)
    for name in DEPTHS:
        small, large = (planes_of(device, name, (height * factor, width * factor)) for factor in (1, scale))
        source, target = small.empty(), large.empty()
        small.from_rgb(frame, source)
        hosts = [device.host(codes.shape, codes.dtype.__name__) for codes in (source, target)]
        device.copy(hosts[0], source)
        device.synchronize()

        def inside(small: Any = small, large: Any = large, source: Any = source, target: Any = target) -> None:
            small.to_rgb(source, frame, stream=stream)
            upscale(stream)
            large.from_rgb(result, target, stream=stream)

        def over_the_host(run: Any = inside, source: Any = source, target: Any = target, hosts: Any = hosts) -> None:
            device.copy(source, hosts[0], stream=stream)
            run()
            device.copy(hosts[1], target, stream=stream)

        alone, all_in_all = (
            seconds_per_call(run, lambda: device.synchronize(stream), session.seconds / 4) for run in (inside, over_the_host)
        )
        yield name, f"{alone * 1e3:.3f}", f"{all_in_all * 1e3:.3f}", f"{1 / all_in_all:.1f}"
