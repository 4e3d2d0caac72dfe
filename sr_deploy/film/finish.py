"""The segments of a plan -> the target, joined and checked before it takes its name."""

from __future__ import annotations

from collections.abc import Iterable

from sr_deploy.errors import VideoError
from sr_deploy.files import put_in_place
from sr_deploy.film.journal import Journal, SegmentRecord, clear_concluded
from sr_deploy.film.observer import VideoSummary
from sr_deploy.film.plan import PlannedSegment, VideoPlan, container_of
from sr_deploy.video.check import Expected, check_result
from sr_deploy.video.input import Input, input_of
from sr_deploy.video.join import join

_SHOWN = 5
"""Ranges of numbers that a message has room for."""


def finish(plan: VideoPlan) -> VideoSummary:
    """Join the segments of a plan, whoever computed them, check the result, and only then give the target its name.

    plan: with all of its segments computed.

    Raises: VideoError when segments are missing or not what their sidecars say, and when the result is not what it should be;
    UsageError when the folder belongs to another plan. Segments are kept then.
    """
    if plan.target.exists() and not plan.options.overwrite:
        clear_concluded(plan.part)
        return VideoSummary(plan.target, "skipped")
    with Journal(plan.part, plan.identity) as journal:
        known = {segment.index: segment for segment in journal.segments}
        missing = [index for index, wanted in enumerate(plan.segments) if not _is(known.get(index), wanted)]
        if missing:
            raise VideoError(
                f"{plan.part}: {len(missing)} of {len(plan.segments)} segments are missing or damaged: {_ranges(missing)}; "
                "compute them, then join again"
            )
        return join_and_check(plan, input_of(plan.source), journal)


def join_and_check(plan: VideoPlan, video: Input, journal: Journal) -> VideoSummary:
    """Join what the journal has, check it, give the target its name, and remove the folder.

    Raises: VideoError.
    """
    if not journal.segments:
        raise VideoError(f"{video.name}: gives no frame; check --from and --until, and that the file is whole")
    _require_whole(journal.segments, plan.output.per_segment)
    joined = plan.part / f"joined{plan.target.suffix}"
    segments = [plan.part / segment.name for segment in journal.segments]
    out, encoding, streams = plan.output.format, plan.output.encoding, plan.output.streams
    source, start, until = container_of(video), plan.options.start, plan.options.until
    result = join(segments, joined, out, encoding, streams, source=source, start=start, until=until, survey=plan.survey)
    check_result(joined, Expected.of(out, encoding, streams, result))
    journal.conclude()
    put_in_place(joined, plan.target)
    frames, size = journal.frames, plan.target.stat().st_size
    journal.remove()
    return VideoSummary(plan.target, "done", frames, bytes=size, notes=result.notes)


def _require_whole(segments: Iterable[SegmentRecord], per_segment: int) -> None:
    """Raises: VideoError unless all segments but the last are full."""
    short = [segment for segment in segments if segment.frames != per_segment][:-1]
    if short:
        raise VideoError(
            f"segment {short[0].name} holds {short[0].frames} of {per_segment} frames: the source gave fewer than before; "
            "check it, then run with --overwrite"
        )


def _is(found: SegmentRecord | None, wanted: PlannedSegment) -> bool:
    return found is not None and (found.frames, found.first, found.last) == (wanted.frames, wanted.first, wanted.last)


def _ranges(numbers: list[int]) -> str:
    """'3, 7-9' of 3, 7, 8, 9."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [f"{begin}" if begin == end else f"{begin}-{end}" for begin, end in ranges[:_SHOWN]]
    more = f" and {len(ranges) - _SHOWN} more ranges" if len(ranges) > _SHOWN else ""
    return ", ".join(shown) + more
