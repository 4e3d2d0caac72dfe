"""How long a plan takes here and how large its result becomes, from frames that are computed for it and thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from sr_deploy.film.decide import Way, frame_network, opened, way_of
from sr_deploy.film.plan import PlannedSegment, VideoPlan
from sr_deploy.film.stages import Enlarging, Numbered, SegmentOutput, numbered
from sr_deploy.pipeline import run_pipeline
from sr_deploy.video.frame import FrameUpscaler
from sr_deploy.video.images import FrameSource
from sr_deploy.video.input import input_of
from sr_deploy.video.segment import Segment

PLACES = (Fraction(1, 6), Fraction(1, 2), Fraction(5, 6))
"""Where in a video what stands for all of it lies, as shares of its length."""
_SECONDS = 2.0
_FEWEST = 3
"""Frames at each place: those of so many seconds, but no less."""


@dataclass(frozen=True)
class Estimate:
    """seconds: on the clock of this machine; bytes: of the upscaled stream."""

    seconds: float
    bytes: int


@dataclass(frozen=True)
class _Burst:
    frames: int
    seconds: float
    bytes: int


def estimate(plan: VideoPlan, upscaler: FrameUpscaler) -> Estimate:
    """Measure the whole way of frames, from decoder to encoder, at three places of the video.

    plan: with its segments.
    upscaler: as the plan's.

    Raises: VideoError; what the upscaler raises.
    """
    video = input_of(plan.source)
    with opened(video, plan.options, plan.survey) as source, tempfile.TemporaryDirectory() as folder:
        way = way_of(video, source.format, plan.output, upscaler, plan.options)
        _measured(plan, plan.segments[0], upscaler, source, way, Path(folder), frames=1)
        chosen = {plan.segments[int(place * len(plan.segments))] for place in PLACES}
        bursts = [_measured(plan, segment, upscaler, source, way, Path(folder)) for segment in chosen]
    frames = sum(burst.frames for burst in bursts)
    share = plan.frames / frames
    return Estimate(share * sum(burst.seconds for burst in bursts), round(share * sum(burst.bytes for burst in bursts)))


def _measured(
    plan: VideoPlan,
    segment: PlannedSegment,
    upscaler: FrameUpscaler,
    source: FrameSource,
    way: Way,
    folder: Path,
    frames: int | None = None,
) -> _Burst:
    """The first frames of a segment. frames: how many; None for as many as the time allows."""
    network = frame_network(upscaler, plan.options, source.format, way.planes)
    written: list[int] = []
    files: list[Segment] = []
    output = SegmentOutput(
        folder, plan.output, way.encoder, written=written.append, finished=lambda _, file: files.append(file)
    )
    began = 0.0

    def a_while() -> Iterator[Numbered]:
        nonlocal began
        for item in numbered(islice(source.frames(after=segment.after), frames or segment.frames), 0, None):
            began = began or time.perf_counter()
            if frames is None and item[0] >= _FEWEST and time.perf_counter() - began > _SECONDS:
                return
            yield item

    run_pipeline(a_while(), Enlarging(network, plan.output.format, None), output.write, workers=network.concurrency)
    output.finish()
    return _Burst(len(written), time.perf_counter() - began, sum(file.bytes for file in files))
