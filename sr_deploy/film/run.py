"""A video file -> an upscaled video file, through crashes."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from sr_deploy.errors import UsageError
from sr_deploy.film.decide import Way, begun, decide, decode_where_asked, frame_network, opened, require_another_file
from sr_deploy.film.finish import join_and_check
from sr_deploy.film.journal import Journal, clear_concluded
from sr_deploy.film.observer import VideoObserver, VideoProgress, VideoStart, VideoSummary, bitrate_of
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.output import enlarged
from sr_deploy.film.plan import VideoPlan, part_of
from sr_deploy.film.rehearsal import rehearse
from sr_deploy.film.stages import (
    Enlarging,
    FrameNetwork,
    Numbered,
    SegmentOutput,
    at_frame,
    missing_frames,
    numbered,
)
from sr_deploy.pictures.image import PIPE, names_stream
from sr_deploy.pipeline import Timing, run_pipeline
from sr_deploy.video.encoding import Encoding
from sr_deploy.video.frame import Frame, FrameUpscaler, VideoFormat
from sr_deploy.video.images import FrameSource
from sr_deploy.video.input import Input, input_of
from sr_deploy.video.segment import Segment
from sr_deploy.video.y4m import ImageSequence, Y4MWriter


def upscale_video(
    source: str | Path | BinaryIO,
    target: str | Path,
    upscaler: FrameUpscaler,
    *,
    options: VideoOptions | None = None,
    observer: VideoObserver | None = None,
    cancel: threading.Event | None = None,
) -> VideoSummary:
    """Upscale a video into a file whose ending names its container; returns what became of it.

    What is finished is kept in the folder TARGET.part until the target is complete: the same call goes on after a crash. A
    target that exists is left alone, unless `options.overwrite`.

    source: a video by its path or http(s) address, a seekable file object of bytes, or a pattern of numbered pictures.
    target: its ending names the container.
    upscaler: an Upscaler or MaskedUpscaler, which stays open.
    options: how it is read, upscaled and written; None is all by default.
    observer: is told how the run goes.
    cancel: set by any thread, it ends the run within a frame.

    Raises: UsageError for options that do not suit, or that differ from those of an unfinished run; VideoError for a source
    that cannot be read, a full disk, or a result that is not what it should be; CancelledError; what the upscaler raises. A
    note on the exception names the frame. Finished segments are kept.
    """
    run = _VideoRun(input_of(source), Path(target), upscaler, options or VideoOptions(), observer or VideoObserver(), cancel)
    return run.run()


def upscaled_frames(
    source: str | Path | BinaryIO,
    upscaler: FrameUpscaler,
    *,
    options: VideoOptions | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Frame]:
    """The upscaled frames of a video, one after the other; the source is closed when the consumer stops.

    Pixels may be read-only: equal frames share them.

    source: a video by its path or http(s) address, a seekable file object of bytes, or a pattern of numbered pictures.
    upscaler: an Upscaler or MaskedUpscaler, which stays open.
    options: those that concern reading, the size and reuse count; None is all by default.
    cancel: set by any thread, it ends the frames.

    Raises: UsageError, VideoError, CancelledError, what the upscaler raises; a note on the exception names the frame.
    """
    chosen = options or VideoOptions()
    with opened(input_of(source), chosen) as video:
        out = enlarged(video.format, upscaler.scale, chosen.size)
        enlarge = Enlarging(frame_network(upscaler, chosen, video.format), out, cancel)
        for item in numbered(video.frames(), 0, cancel):
            yield enlarge(item)[1]


@dataclass
class _VideoRun:
    _source: Input
    _target: Path
    _upscaler: FrameUpscaler
    _options: VideoOptions
    _observer: VideoObserver
    _cancel: threading.Event | None
    _bitrate: float | None = None

    def run(self) -> VideoSummary:
        started = time.perf_counter()
        require_another_file(self._source, self._target)
        if self._is_done() and not self._options.overwrite:
            clear_concluded(part_of(self._target))
            return VideoSummary(self._target, "skipped")
        try:
            with opened(self._source, self._options) as source:
                summary = self._pass_on(source) if self._is_stream else self._upscale(source)
        finally:
            gc.collect()  # PyAV's containers and streams hold each other, and with them the threads of decoders.
        return replace(summary, seconds=time.perf_counter() - started)

    @property
    def _is_stream(self) -> bool:
        """Whether the target is no video file: it gets frames one by one, and no run goes on where it stopped."""
        return names_stream(self._target)

    def _is_done(self) -> bool:
        if self._is_stream and self._target != PIPE:
            return ImageSequence(self._target).path(1).exists()
        return self._target.exists()

    def _upscale(self, source: FrameSource) -> VideoSummary:
        """Everything that can be refused is refused before the first frame is computed."""
        options = self._options
        plan, way = decide(self._source, source, self._target, self._upscaler, options)
        with begun(plan, fresh=not (options.resume and source.repeatable)) as journal:
            return self._computed(source, plan, way, journal)

    def _computed(self, source: FrameSource, plan: VideoPlan, way: Way, journal: Journal) -> VideoSummary:
        """What became of the frames that are missing yet, and of the whole."""
        resumed = journal.frames
        rehearse(plan, self._source, source.start_pts, way.encoder)
        known = (*plan.notes, *decode_where_asked(plan, source, self._upscaler, way.planes), *way.notes)
        self._started(source, plan.output.format, plan.output.encoding, resumed, known)
        frames = frame_network(self._upscaler, self._options, source.format, way.planes)
        timing = self._compute(source, frames, plan, way, journal)
        summary = join_and_check(plan, self._source, journal)
        notes = (*source.notes, *known, *summary.notes)
        return replace(summary, resumed=resumed, timing=timing, notes=notes, reuse=frames.reuse, stats=frames.stats)

    def _started(
        self, source: FrameSource, out: VideoFormat, encoding: Encoding | None, resumed: int, known: tuple[str, ...]
    ) -> None:
        notes = (*source.notes, *known)
        self._observer.started(
            VideoStart(self._source.path or self._source.name, self._target, out, encoding, source.frame_count, resumed, notes)
        )

    def _pass_on(self, source: FrameSource) -> VideoSummary:
        """Frames into a pipe or into pictures."""
        if self._options.decode == "nvdec":
            raise UsageError(f"{self._target}: frames for a pipe or pictures are decoded on the CPU; leave out --decode nvdec")
        out = enlarged(source.format, self._upscaler.scale, self._options.size)
        sink = Y4MWriter(sys.stdout.buffer, out) if self._target == PIPE else ImageSequence(self._target)
        self._started(source, out, None, 0, ())
        frames = frame_network(self._upscaler, self._options, source.format)
        enlarge = Enlarging(frames, out, self._cancel)

        def write(item: Numbered) -> None:
            number, frame = item
            with at_frame(number, "writing"):
                sink.write(frame)
            self._observer.written(VideoProgress(number + 1, None))

        try:
            timing = run_pipeline(numbered(source.frames(), 0, self._cancel), enlarge, write, workers=frames.concurrency)
            sink.close()
        except BaseException:
            sink.abort()
            raise
        lost = sink.notes if isinstance(sink, ImageSequence) else ()
        notes = source.notes + ((f"{self._target.suffix} cannot hold its {', '.join(lost)}",) if lost else ())
        return VideoSummary(self._target, "done", timing.items, 0, 0, 0.0, timing, notes, frames.reuse, frames.stats)

    def _compute(self, source: FrameSource, frames: FrameNetwork, plan: VideoPlan, way: Way, journal: Journal) -> Timing:
        done = journal.frames

        def written(_: int) -> None:
            nonlocal done
            done += 1
            self._observer.written(VideoProgress(done, self._bitrate))

        def finished(index: int, segment: Segment) -> None:
            journal.add(index, segment.path, frames=segment.frames, first=segment.first_pts, last=segment.last_pts)
            self._bitrate = bitrate_of(segment.bytes, segment.last_pts - segment.first_pts, source.format.time_base)

        segments = SegmentOutput(plan.part, plan.output, way.encoder, written=written, finished=finished)
        items = missing_frames(source, journal, plan.output.per_segment, self._cancel)
        enlarge = Enlarging(frames, plan.output.format, self._cancel)
        try:
            timing = run_pipeline(items, enlarge, segments.write, workers=frames.concurrency)
            segments.finish()
        except BaseException as exc:
            segments.abort()
            exc.add_note(f"{journal.frames} frames are kept, {done - journal.frames} will be computed again")
            raise
        return timing
