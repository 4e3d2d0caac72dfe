"""The part `masked` of `gpu.py`: mask-guided networks on the device against the host, stage by stage."""

from __future__ import annotations

import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from gpu_session import Session, header
from gpu_speed import on_device
from roofline import seconds_per_call

from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.card import Part
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.patches import PatchSelector
from sr_deploy.engines import select_backend
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.engines.mask_guided import Amount, select_patches
from sr_deploy.engines.mask_guided_device import DeviceMaskGuidedEngine
from sr_deploy.engines.pixels import FEATURES, HEALTH, INPUT, OUTPUT, SCORES, load_pixel_form
from sr_deploy.masked.masked_upscaler import MaskGuidedUpscaler
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.upscaling.gpu.tune import frames_per_second, picture
from sr_deploy.upscaling.sentinel import WindowRunner

SHARES = (0.0, 0.1, 0.2, 0.5, 1.0)
STAGES = ("base", "select", "crop", "refine", "paste")
STAGE_OF = {"crop": "crop", "paste": "paste"}
"""By a word in the name of a kernel; the others select."""

FRAMES = {True: 9, False: 1}
"""That are taken apart, on a GPU and on the CPU that stands for one."""


@dataclass
class Clock:
    """Seconds and launches of one frame, by stage; all that a stage puts on the stream is waited for before the next."""

    device: Device
    seconds: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    _stage: str = ""

    def timed(self, stage: str, run: Callable[..., object]) -> Callable[..., None]:
        """`run`, as a part of the stage, unless it is called inside of another one."""

        def measured(*arguments: Any, **options: Any) -> None:
            if self._stage:
                run(*arguments, **options)
                return
            self._stage = stage
            started = time.perf_counter()
            run(*arguments, **options)
            self.device.synchronize(options.get("stream"))
            self.seconds[stage] += time.perf_counter() - started  # type: ignore[assignment]
            self._stage = ""

        return measured

    def in_the_place_of(self, launch: Callable[..., None]) -> Callable[..., None]:
        """A launching method of Device, with its time and its stage told."""

        def told(device: Device, kernel: Any, *arguments: Any, **options: Any) -> None:
            stage = self._stage or stage_of(kernel)
            self.launches[stage] += 1
            self.timed(stage, functools.partial(launch, device, kernel))(*arguments, **options)

        return told


def masked(session: Session) -> Iterator[str]:
    """Mask-guided networks: patches and pixels of the device against the host's, and the time of each stage.

    *apart*: base, select, crop, refine, paste, each waited for. *at once*: put on the stream as a whole; *graph*: as a CUDA
    graph, where the engines allow it. *host*: bytes other than those of the same engines with patches chosen and cut on the
    host. *frames/s*: from the host's memory to the host's memory.
    """
    bundles = [bundle for bundle in session.bundles if bundle.card.masked is not None]
    if not bundles:
        yield "No bundle of a mask-guided network was given."
        return
    yield f"Frames of {'x'.join(map(str, session.size))}.\n"
    yield header("bundle", "backend", "refined", *(f"{stage} ms" for stage in STAGES), "apart ms", "at once ms", "graph ms",
                 "launches", "frames/s", "patches equal", "host", "arrays equal")  # fmt: skip
    for bundle, backend in session.pairs(bundles):
        yield from session.rows(bundle.card.name, backend, cells=functools.partial(_shares, session, bundle, backend))


def stage_of(kernel: Any) -> str:
    name = str(getattr(kernel, "key", kernel))
    return next((stage for word, stage in STAGE_OF.items() if word in name), "select")


def _shares(session: Session, bundle: Bundle, backend: str) -> Iterator[Sequence[object]]:
    frame = _frame(session, bundle)
    engines = _open(bundle, backend, "base"), _open(bundle, backend, "refine")
    for share in SHARES:
        session.require_time(bundle.card.name, backend, f"{share:.0%}")
        yield _share(session, bundle, backend, engines, frame, Amount(ratio=share))


def _share(
    session: Session,
    bundle: Bundle,
    backend: str,
    engines: tuple[DeviceEngine, DeviceEngine],
    frame: Array,
    amount: Amount,
) -> Sequence[object]:
    assert bundle.card.masked is not None
    both, (base, refine) = DeviceMaskGuidedEngine(*engines, bundle.card.masked, amount), engines
    arrays = frame_arrays(both.device, bundle.card.scale, frame)
    seconds, launches = take_apart(both, base, refine, arrays, FRAMES[session.on_gpu])
    at_once = seconds_per_call(lambda: both.enqueue(arrays), lambda: both.device.synchronize(None), session.seconds / 4)
    found = arrays[OUTPUT].numpy()[0].copy()
    on_host = both.run({INPUT: frame[None]})
    equal, chosen, patches = _same_patches(base, arrays, amount, bundle)
    fps, same = _through_upscaler(session, bundle, backend, frame, amount)
    return (
        f"{chosen} of {patches}",
        *(_ms(seconds[stage]) for stage in STAGES),
        _ms(sum(seconds.values())),
        _ms(at_once),
        _ms(_as_graph(session, both, bundle.card.scale, frame)) if session.on_gpu and both.capturable else "-",
        sum(launches.values()),
        f"{fps:.1f}",
        equal,
        f"{int((found != on_host[OUTPUT][0]).sum())} of {found.size}",
        same,
    )


def take_apart(
    both: DeviceEngine, base: DeviceEngine, refine: DeviceEngine, arrays: dict[str, DeviceArray], frames: int
) -> tuple[dict[str, float], Counter[str]]:
    """Median seconds by stage, and the launches of one frame: kernels of ours, and runs of engines."""
    both.enqueue(arrays)
    both.device.synchronize(None)
    clocks = [Clock(both.device) for _ in range(frames)]
    for clock in clocks:
        with ExitStack() as patches:
            for name, engine in (("base", base), ("refine", refine)):
                enqueue = clock.timed(name, _counted(clock, name, engine.enqueue))
                patches.enter_context(mock.patch.object(engine, "enqueue", enqueue))
            for name in ("launch", "launch_blocks"):
                patches.enter_context(mock.patch.object(Device, name, clock.in_the_place_of(getattr(Device, name))))
            both.enqueue(arrays)
            both.device.synchronize(None)
    return {stage: statistics.median(clock.seconds[stage] for clock in clocks) for stage in STAGES}, clocks[-1].launches


def frame_arrays(device: Device, scale: int, frame: Array) -> dict[str, DeviceArray]:
    """What goes in and out of an engine of the pixel form for one frame (H,W,3) uint8."""
    height, width, channels = frame.shape
    return {
        INPUT: device.array(frame).reshape((1, height, width, channels)),
        OUTPUT: device.empty((1, height * scale, width * scale, channels), np.uint8),
        HEALTH: device.empty((1,), np.float32),
    }


def _counted(clock: Clock, stage: str, run: Callable[..., object]) -> Callable[..., None]:
    def counted(*arguments: Any, **options: Any) -> None:
        clock.launches[stage] += 1
        run(*arguments, **options)

    return counted


def _as_graph(session: Session, both: DeviceEngine, scale: int, frame: Array) -> float:
    contender = on_device(both, scale, frame)
    return seconds_per_call(contender.run, contender.wait, session.seconds / 4)


def _same_patches(base: DeviceEngine, arrays: dict[str, DeviceArray], amount: Amount, bundle: Bundle) -> tuple[str, int, int]:
    """Whether the kernels choose what numpy does from the same scores; how many of how many are chosen."""
    assert bundle.card.masked is not None
    device, patch = base.device, bundle.card.masked.patch
    _, height, width, _ = arrays[INPUT].shape
    features = next(spec for spec in base.outputs if spec.name == FEATURES)
    scores = device.empty((1, 1, height // patch, width // patch), np.float32)
    more = {FEATURES: device.empty((1, bundle.card.masked.features, height, width), features.dtype), SCORES: scores}
    base.enqueue({**arrays, **more})
    device.synchronize(None)
    selector, flat = PatchSelector(device, scores.size), scores.reshape((scores.size,))
    selector.take(flat, amount.of(scores.size) or 0)
    device.synchronize(None)
    wanted, found = select_patches(flat.numpy(), amount), selector.chosen.numpy()[: int(selector.count.numpy()[0])]
    return "yes" if np.array_equal(wanted, found) else "**no**", len(found), scores.size


def _through_upscaler(session: Session, bundle: Bundle, backend: str, frame: Array, amount: Amount) -> tuple[float, str]:
    """Frames per second of the whole thing, and whether an array of the device becomes what an array of the host does."""
    with MaskGuidedUpscaler(bundle, amount, backend=backend, schedule=Schedule()) as upscale:
        there = upscale.on_device(session.device.array(frame)).numpy()
        same = "yes" if np.array_equal(there, upscale(frame)) else "**no**"
        return frames_per_second(upscale, frame, session.seconds / 4), same


def _frame(session: Session, bundle: Bundle) -> Array:
    """Of the session's size, less what the network does not take."""
    width, height = (side // bundle.card.size_multiple * bundle.card.size_multiple for side in session.size)
    return picture(height, width)


def _open(bundle: Bundle, name: str, part: Part) -> DeviceEngine:
    backend: Any = select_backend(name)
    precision: Any = WindowRunner(bundle, backend=backend, precision="auto", on_failure="raise", threads=None).precision
    graph = load_pixel_form(bundle, precision, part, cast_last=backend.cast_last)
    engine: DeviceEngine = backend.open(graph.SerializeToString(deterministic=True), precision=precision, threads=None)
    return engine


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"
