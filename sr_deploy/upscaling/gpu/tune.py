"""Which schedule is fastest for a bundle on a GPU: frames are timed from the host's memory to the host's memory.

Tiles and batches are tried first, at two frames in flight, then other numbers of frames in flight with the best of them, then
the options of the backend, each with those before it.

An exact network gives the same pixels under every schedule in fp32, where the runtime adds up in the same order for every
shape. In fp16 a runtime that takes another kernel for another shape rounds elsewhere, and single pixels may differ by a step or
two of 255. The pixels of an approximate network depend on its tiles; so its tiles are left alone, and are the whole frame where
that fits.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.card import ModelCard, PrecisionChoice
from sr_deploy.device import gpu
from sr_deploy.engines import Backend, select_backend
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import BackendUnavailableError, EngineError, UnhealthyOutputError, UsageError
from sr_deploy.pipeline import run_pipeline
from sr_deploy.upscaling.gpu.frames import Schedule
from sr_deploy.upscaling.gpu.schedules import KeptSchedule, default_schedules, keep_schedule, schedule_key
from sr_deploy.upscaling.sentinel import WindowRunner
from sr_deploy.upscaling.tiling import plan_tiles
from sr_deploy.upscaling.upscaler import Upscaler

TILES = (512, 384, 256)
"""Of 960x540 these make windows from about 480x270 down: a feature map of such a window stays in a GPU's L2 cache."""

BATCHES = (1, 2, 4, 8)
SLOTS = (1, 2, 3)
_FIRST_SLOTS = 2

_NOISE = 0.02
"""Two measurements that are as near as that are equal."""

_WARM_UP = 3
"""Frames per slot: the first compiles and loads, the second records, the third repeats."""


@dataclass(frozen=True)
class Measurement:
    """What one schedule reached: frames per second, or None and why it did not run. `tiles`: per frame, 0 where unknown."""

    schedule: Schedule
    fps: float | None
    tiles: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Tuning:
    """All measurements in the order of measuring, the best of them, and the file that keeps it."""

    measurements: tuple[Measurement, ...]
    best: Measurement
    path: Path | None


def tune(
    model: str | Path | Bundle,
    *,
    backend: str = "auto",
    precision: PrecisionChoice = "auto",
    gpus: Sequence[int] = (0,),
    size: tuple[int, int] = (960, 540),
    seconds: float = 2.0,
    candidates: Sequence[Schedule] | None = None,
    keep: bool = True,
    progress: Callable[[Measurement], None] | None = None,
) -> Tuning:
    """Measure schedules for frames of `size` (width, height), each for about `seconds`, and keep the best for `Upscaler`.

    candidates: what to measure, by default a search. A schedule that runs out of memory or that the engine refuses is recorded
    as such. keep: write the best one into the user's own cache folder. progress: told of each measurement.

    Raises: BackendUnavailableError without these GPUs; UsageError; BundleError; EngineError when no schedule runs, or the best
    one cannot be written.
    """
    chosen = _gpu_backend(backend, gpus)
    bundle = model if isinstance(model, Bundle) else open_bundle(model)
    width, height = size
    frame = picture(height, width)
    measured: list[Measurement] = []

    def measure(schedule: Schedule) -> Measurement:
        with Upscaler(bundle, backend=backend, precision=precision, gpus=gpus, schedule=schedule) as upscale:
            measured.append(_measure(upscale, schedule, frame, seconds))
        if progress is not None:
            progress(measured[-1])
        return measured[-1]

    if candidates is None:
        _search(bundle.card, height, width, chosen.options, measure)
    else:
        for schedule in candidates:
            measure(schedule)
    best = choose(measured)
    path = _keep(bundle, chosen, precision, gpus, size, best) if keep else None
    return Tuning(tuple(measured), best, path)


def choose(measurements: Sequence[Measurement]) -> Measurement:
    """The fastest; of those that are as fast within 2 %, the simplest: no options, whole frames, small batches, few in flight.

    Raises: EngineError with the first problem when none ran.
    """
    ran = [found for found in measurements if found.fps]
    if not ran:
        first = measurements[0].problem if measurements else "there was none to try"
        raise EngineError(f"no schedule runs: {first}")
    fastest = max(found.fps or 0.0 for found in ran)
    return min((found for found in ran if (found.fps or 0.0) >= fastest * (1 - _NOISE)), key=_complexity)


def frames_per_second(upscale: Upscaler, frame: Array, seconds: float) -> float:
    """How many such frames `upscale` gives per second, from the host's memory to the host's memory, once it is warm.

    Raises: OutOfMemoryError, which `Upscaler` itself answers with smaller tiles; EngineError; UnhealthyOutputError.
    """
    tiling = upscale._plan(*frame.shape[:2])
    run = functools.partial(upscale._run_tiling, tiling=tiling)
    workers = upscale.concurrency
    run_pipeline(itertools.repeat(frame, _WARM_UP * workers), run, _drop, workers=workers)
    timing = run_pipeline(_frames(frame, seconds, 2 * workers), run, _drop, workers=workers)
    if upscale.stats.trouble:
        raise EngineError("the pixels were not sane, and were computed again in fp32; choose another precision")
    return timing.items / timing.wall


def picture(height: int, width: int) -> Array:
    """(H,W,3) uint8: waves with a little grain; no runtime takes a shortcut for them, and no network explodes on them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([127.5 + 50 * np.sin(x / (5 + at)) + 50 * np.cos(y / (7 + at)) for at in range(3)], axis=-1)
    grain = np.random.default_rng(0).normal(0, 4, waves.shape)
    return np.ascontiguousarray(np.clip(waves + grain, 0, 255), np.uint8)


def _gpu_backend(backend: str, gpus: Sequence[int]) -> Backend:
    machine = gpu.survey()
    if not machine.gpus:
        raise BackendUnavailableError(f"there is no GPU to tune for: {machine.problem}; {machine.remedy}")
    gpu.check_gpus(gpus)
    chosen = select_backend(backend)
    if chosen.device == "cpu":
        raise UsageError(f"backend '{backend}' runs on the CPU, where there is nothing to tune; leave it out")
    return chosen


def _search(
    card: ModelCard, height: int, width: int, options: Sequence[str], measure: Callable[[Schedule], Measurement]
) -> None:
    found = _measure_batches(0, measure)
    if card.tiling == "exact" or not any(entry.fps for entry in found):
        for tile in _distinct_tiles(card, height, width):
            found += _measure_batches(tile, measure)
    best = choose(found).schedule
    found += [measure(Schedule(best.tile, best.batch, slots)) for slots in SLOTS if slots != best.slots]
    best = choose(found).schedule
    for count in range(1, len(options) + 1):
        measure(dataclasses.replace(best, options=tuple(options[:count])))


def _measure_batches(tile: int, measure: Callable[[Schedule], Measurement]) -> list[Measurement]:
    """Batches as large as the frame has tiles of that size; none after one that does not run."""
    found: list[Measurement] = []
    for batch in BATCHES:
        if found and (found[-1].fps is None or batch > found[-1].tiles):
            break
        found.append(measure(Schedule(tile, batch, _FIRST_SLOTS)))
    return found


def _distinct_tiles(card: ModelCard, height: int, width: int) -> list[int]:
    """Tiles that cut a frame, each in another way."""
    plans = {
        plan_tiles(height, width, tile=tile, halo=card.halo, blend=False, multiple=card.size_multiple): tile for tile in TILES
    }
    return [tile for plan, tile in plans.items() if len(plan) > 1]


def _measure(upscale: Upscaler, schedule: Schedule, frame: Array, seconds: float) -> Measurement:
    tiles = 0
    try:
        tiles = len(upscale._plan(*frame.shape[:2]))
        return Measurement(schedule, frames_per_second(upscale, frame, seconds), tiles)
    except (EngineError, UnhealthyOutputError, MemoryError) as exc:
        return Measurement(schedule, None, tiles, str(exc) or "out of memory")


def _frames(frame: Array, seconds: float, least: int) -> Iterator[Array]:
    """The frame again and again, for so many seconds and at least so many times."""
    started = time.perf_counter()
    for index in itertools.count():
        if index >= least and time.perf_counter() - started >= seconds:
            return
        yield frame


def _drop(large: Array) -> None:
    del large


def _complexity(measurement: Measurement) -> tuple[int, ...]:
    schedule = measurement.schedule
    return len(schedule.options), int(schedule.tile != 0), schedule.batch, schedule.slots, -schedule.tile


def _keep(
    bundle: Bundle, backend: Backend, precision: PrecisionChoice, gpus: Sequence[int], size: tuple[int, int], best: Measurement
) -> Path | None:
    windows = WindowRunner(bundle, backend=backend, precision=precision, on_failure="raise", threads=None)
    key = schedule_key(bundle, backend, windows.precision, gpus[0])
    if key is None:
        return None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kept = KeptSchedule(key, size, best.schedule, round(best.fps or 0.0, 3), len(gpus), bundle.card.name, now)
    return keep_schedule(kept, default_schedules())
