"""One segment of a plan, in any process: decoded, upscaled, encoded, and vouched for."""

from __future__ import annotations

import gc
import threading
from itertools import islice
from typing import Any

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import sweep
from sr_deploy.film.decide import Way, decode_where_asked, frame_network, opened, way_of
from sr_deploy.film.journal import SegmentRecord, differences, finished_segment, vouch
from sr_deploy.film.plan import PlannedSegment, VideoPlan
from sr_deploy.film.stages import Enlarging, SegmentOutput, numbered
from sr_deploy.pipeline import run_pipeline
from sr_deploy.video.frame import FrameUpscaler
from sr_deploy.video.images import FrameSource
from sr_deploy.video.input import input_of
from sr_deploy.video.segment import Segment


def compute_segment(
    plan: VideoPlan,
    index: int,
    upscaler: FrameUpscaler,
    *,
    source: str | None = None,
    cancel: threading.Event | None = None,
) -> SegmentRecord:
    """Make one segment of a plan, into the plan's folder; one that is there already is left as it is.

    Any number of processes may do so at once, on any machine, the same segment too: a file takes its name when it is complete.

    plan: of `plan_video`.
    index: of the segment, from 0.
    upscaler: as the plan's, which stays open.
    source: where the video is for this process; None where the plan says.
    cancel: set by any thread, it ends the computation within a frame.

    Raises: UsageError for a number that the plan does not have, and where this process would compute other pixels, because its
    version, network, precision or instruction set differ; VideoError, CancelledError, what the upscaler raises.
    """
    wanted = plan.segment(index)
    video = input_of(source or plan.source)
    try:
        with opened(video, plan.options, plan.survey) as frames:
            way = way_of(video, frames.format, plan.output, upscaler, plan.options)
            _require_admission(plan, way.identity, moved=source is not None)
            found = finished_segment(plan.part, index, plan.identity)
            return found or _computed(plan, index, wanted, upscaler, frames, way, cancel)
    finally:
        gc.collect()  # PyAV's containers and streams hold each other, and with them the threads of decoders.


def _computed(
    plan: VideoPlan,
    index: int,
    wanted: PlannedSegment,
    upscaler: FrameUpscaler,
    source: FrameSource,
    way: Way,
    cancel: threading.Event | None,
) -> SegmentRecord:
    made: list[SegmentRecord] = []

    def finished(number: int, segment: Segment) -> None:
        if (segment.frames, segment.first_pts, segment.last_pts) != (wanted.frames, wanted.first, wanted.last):
            raise VideoError(
                f"segment {number}: {segment.frames} frames from {segment.first_pts} to {segment.last_pts}, the plan says "
                f"{wanted.frames} from {wanted.first} to {wanted.last}; plan again with --decode-all"
            )
        times = {"frames": segment.frames, "first": segment.first_pts, "last": segment.last_pts}
        made.append(vouch(segment.path, number, plan.identity, **times))

    decode_where_asked(plan, source, upscaler, way.planes)
    plan.part.mkdir(parents=True, exist_ok=True)
    sweep(plan.part)
    network = frame_network(upscaler, plan.options, source.format, way.planes)
    output = SegmentOutput(plan.part, plan.output, way.encoder, written=lambda _: None, finished=finished)
    items = numbered(islice(source.frames(after=wanted.after), wanted.frames), index * plan.output.per_segment, cancel)
    try:
        run_pipeline(items, Enlarging(network, plan.output.format, cancel), output.write, workers=network.concurrency)
        output.finish()
    except BaseException:
        output.abort()
        raise
    if not made:
        raise VideoError(f"segment {index}: the source gives no frame after {wanted.after}; plan again with --decode-all")
    return made[0]


def _require_admission(plan: VideoPlan, identity: dict[str, Any], *, moved: bool) -> None:
    """Raises: UsageError unless this process makes what the plan says. moved: whether the source may be a copy."""
    expected = plan.identity
    if moved:
        expected, identity = (_without_time(one) for one in (expected, identity))
    if told := differences(expected, identity):
        raise UsageError(
            f"{plan.part}: this process would make other segments than were planned ({told}); "
            "run it with what it was planned with, or plan again"
        )


def _without_time(identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"source": {name: value for name, value in identity["source"].items() if name != "changed"}}
