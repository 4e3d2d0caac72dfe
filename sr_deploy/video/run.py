"""A video file -> an upscaled video file, through crashes."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from sr_deploy import __version__
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import BackendUnavailableError, EngineError, UsageError, VideoError
from sr_deploy.files import put_in_place
from sr_deploy.journal import Journal, SegmentRecord, clear_concluded
from sr_deploy.pictures.image import PICTURES_THAT_MOVE, PIPE, names_stream
from sr_deploy.pipeline import Timing, run_pipeline
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.check import Expected, check_result
from sr_deploy.video.encoding import THREADS, Encoding, choose_encoding
from sr_deploy.video.frame import Frame, VideoFormat
from sr_deploy.video.identity import network_identity, source_identity
from sr_deploy.video.images import FrameSource, open_source
from sr_deploy.video.join import join
from sr_deploy.video.observer import VideoObserver, VideoProgress, VideoStart, VideoSummary
from sr_deploy.video.options import VideoOptions
from sr_deploy.video.output import Output, enlarged, planes_for, segment_frames, space_notes
from sr_deploy.video.rehearsal import rehearse
from sr_deploy.video.stages import (
    Enlarging,
    FrameNetwork,
    FrameUpscaler,
    Numbered,
    SegmentOutput,
    at_frame,
    missing_frames,
    numbered,
    require_whole,
)
from sr_deploy.video.streams import plan_streams
from sr_deploy.video.survey import PacketSurvey
from sr_deploy.video.y4m import ImageSequence, Y4MWriter

if TYPE_CHECKING:
    from sr_deploy.video.nvenc import Nvenc


def upscale_video(
    source: str | Path,
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

    source: a video, or a pattern of numbered pictures.
    target: its ending names the container.
    upscaler: an Upscaler or MaskedUpscaler, which stays open.
    options: how it is read, upscaled and written; None is all by default.
    observer: is told how the run goes.
    cancel: set by any thread, it ends the run within a frame.

    Raises: UsageError for options that do not suit, or that differ from those of an unfinished run; VideoError for a source
    that cannot be read, a full disk, or a result that is not what it should be; CancelledError; what the upscaler raises. A
    note on the exception names the frame. Finished segments are kept.
    """
    run = _VideoRun(Path(source), Path(target), upscaler, options or VideoOptions(), observer or VideoObserver(), cancel)
    return run.run()


def upscaled_frames(
    source: str | Path, upscaler: FrameUpscaler, *, options: VideoOptions | None = None, cancel: threading.Event | None = None
) -> Iterator[Frame]:
    """The upscaled frames of a video, one after the other; the source is closed when the consumer stops.

    Pixels may be read-only: equal frames share them.

    source: a video, or a pattern of numbered pictures.
    upscaler: an Upscaler or MaskedUpscaler, which stays open.
    options: those that concern reading, the size and reuse count; None is all by default.
    cancel: set by any thread, it ends the frames.

    Raises: UsageError, VideoError, CancelledError, what the upscaler raises; a note on the exception names the frame.
    """
    chosen = options or VideoOptions()
    with _opened(Path(source), chosen) as opened:
        out = enlarged(opened.format, upscaler.scale, chosen.size)
        enlarge = Enlarging(_network(upscaler, chosen, opened.format), out, cancel)
        for item in numbered(opened.frames(), 0, cancel):
            yield enlarge(item)[1]


@dataclass
class _VideoRun:
    _source: Path
    _target: Path
    _upscaler: FrameUpscaler
    _options: VideoOptions
    _observer: VideoObserver
    _cancel: threading.Event | None
    _bitrate: float | None = None

    @property
    def _part(self) -> Path:
        return self._target.with_name(self._target.name + ".part")

    def run(self) -> VideoSummary:
        started = time.perf_counter()
        self._require_another_file()
        if self._is_done() and not self._options.overwrite:
            clear_concluded(self._part)
            return VideoSummary(self._target, "skipped")
        try:
            with _opened(self._source, self._options) as source:
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

    def _require_another_file(self) -> None:
        if self._target.is_dir():
            raise UsageError(f"{self._target}: is a folder; expected a file to write")
        if self._target.exists() and self._source.exists() and self._target.samefile(self._source):
            raise UsageError(f"{self._target}: would overwrite its own source; give another name")

    def _upscale(self, source: FrameSource) -> VideoSummary:
        """Everything that can be refused is refused before the first frame is computed."""
        options = self._options
        output = self._output(source)
        space = space_notes(self._target, source.frame_count, output)
        fresh = not (options.resume and source.repeatable)
        nvenc, encoding_notes = self._nvenc(source.format, output)
        identity = self._identity(source.format, output, nvenc)
        with Journal(self._part, identity, replace=options.overwrite, fresh=fresh) as journal:
            try:
                return self._computed(source, output, journal, nvenc, (*space, *encoding_notes))
            except BaseException:
                if not journal.segments:
                    journal.remove()
                raise

    def _computed(
        self, source: FrameSource, output: Output, journal: Journal, nvenc: Nvenc | None, notes: tuple[str, ...]
    ) -> VideoSummary:
        """What became of the frames that are missing yet, and of the whole."""
        resumed = journal.frames
        rehearse(self._part, self._target, output, _container(self._source), source, nvenc.open if nvenc else None)
        planes = nvenc.planes if nvenc else planes_for(self._upscaler, source.format, output.encoded)
        known = (*output.encoding.notes, *output.streams.notes, *self._decoding_notes(source, planes), *notes)
        self._started(source, output.format, output.encoding, resumed, known)
        frames = _network(self._upscaler, self._options, source.format, planes)
        timing = self._compute(source, frames, output, journal, nvenc)
        joining = self._finish(output, journal, source.survey)
        size, count = self._target.stat().st_size, journal.frames
        journal.remove()
        notes = (*source.notes, *known, *joining)
        return VideoSummary(self._target, "done", count, resumed, size, 0.0, timing, notes, frames.reuse, frames.stats)

    def _decoding_notes(self, source: FrameSource, planes: PlaneFormat | None) -> tuple[str, ...]:
        """Let frames be decoded on the GPU that upscales them; what to say where one cannot.

        Raises: BackendUnavailableError where it is asked for and cannot.
        """
        choice, upscaler = self._options.decode, self._upscaler
        on_gpu = isinstance(upscaler, Upscaler) and upscaler._gives_planes
        if choice == "cpu" or (choice == "auto" and not on_gpu):
            return ()
        from sr_deploy.video.nvcodec import decode_on_gpu

        reason = decode_on_gpu(source, upscaler, planes)
        if reason and choice == "nvdec":
            raise BackendUnavailableError(f"{self._source}: NVDEC cannot decode it: {reason}; use --decode auto or cpu")
        return (f"Decoded on the CPU: {reason}.",) if reason else ()

    def _nvenc(self, source: VideoFormat, output: Output) -> tuple[Nvenc | None, tuple[str, ...]]:
        """NVENC as it takes frames from the GPU that upscales them, where it is wanted; what to say where it cannot."""
        codec, upscaler = output.encoding.codec, self._upscaler
        if not codec.endswith("_nvenc") or not isinstance(upscaler, Upscaler) or not upscaler._gives_planes:
            return None, ()
        from sr_deploy.video.nvenc import nvenc_for, planar

        try:
            planes = planes_for(upscaler, source, planar(output.encoded))
            return nvenc_for(upscaler._frames_device(), planes, output.format, output.encoding), ()
        except (BackendUnavailableError, EngineError) as exc:
            return None, (f"Encoded by FFmpeg's {codec}, from the host's memory: {exc}.",)

    def _output(self, source: FrameSource) -> Output:
        options, suffix = self._options, self._target.suffix
        out = enlarged(source.format, self._upscaler.scale, options.size)
        encoding = choose_encoding(
            source.format,
            out,
            suffix,
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            pixel_format=options.pixel_format,
            options=options.encoder_options,
        )
        streams = plan_streams(
            _container(self._source),
            *(suffix, out, encoding),
            drop_unsupported=options.drop_unsupported,
            packets=source.survey.packets,
        )
        streams.require()
        per_segment = options.segment_frames or segment_frames(self._upscaler, source.format)
        return Output(out, encoding, streams, per_segment)

    def _started(
        self, source: FrameSource, out: VideoFormat, encoding: Encoding | None, resumed: int, known: tuple[str, ...]
    ) -> None:
        notes = (*source.notes, *known)
        self._observer.started(VideoStart(self._source, self._target, out, encoding, source.frame_count, resumed, notes))

    def _pass_on(self, source: FrameSource) -> VideoSummary:
        """Frames into a pipe or into pictures."""
        if self._options.decode == "nvdec":
            raise UsageError(f"{self._target}: frames for a pipe or pictures are decoded on the CPU; leave out --decode nvdec")
        out = enlarged(source.format, self._upscaler.scale, self._options.size)
        sink = Y4MWriter(sys.stdout.buffer, out) if self._target == PIPE else ImageSequence(self._target)
        self._started(source, out, None, 0, ())
        frames = _network(self._upscaler, self._options, source.format)
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

    def _identity(self, source: VideoFormat, output: Output, nvenc: Nvenc | None) -> dict[str, Any]:
        options, out, encoding = self._options, output.format, output.encoding
        settings = dict(encoding.options) | ({"encoder": nvenc.identity} if nvenc else {})
        return {
            "source": source_identity(self._source),
            "network": network_identity(self._upscaler, source),
            "size": f"{out.width}x{out.height}",
            "encoding": {"codec": encoding.codec, "pixels": encoding.pixel_format, "threads": THREADS, **settings},
            "from": None if options.start is None else str(options.start),
            "until": None if options.until is None else str(options.until),
            "deinterlacing": options.deinterlace,
            "damage": options.on_damage,
            "frames per second": None if options.fps is None else str(options.fps),
            "frames per segment": output.per_segment,
            "versions": {"sr-deploy": __version__, "PyAV": av.__version__},
        }

    def _compute(
        self, source: FrameSource, frames: FrameNetwork, output: Output, journal: Journal, nvenc: Nvenc | None
    ) -> Timing:
        done = journal.frames

        def written(_: int) -> None:
            nonlocal done
            done += 1
            self._observer.written(VideoProgress(done, self._bitrate))

        def finished(segment: SegmentRecord) -> None:
            seconds = (segment.last - segment.first) * source.format.time_base
            self._bitrate = float(8 * segment.bytes / seconds) if seconds else None

        encoder, each = nvenc.open if nvenc else None, output.per_segment
        segments = SegmentOutput(journal, output.format, output.encoding, each, encoder, written=written, finished=finished)
        items = missing_frames(source, journal, each, self._cancel)
        enlarge = Enlarging(frames, output.format, self._cancel)
        try:
            timing = run_pipeline(items, enlarge, segments.write, workers=frames.concurrency)
            segments.finish()
        except BaseException as exc:
            segments.abort()
            exc.add_note(f"{journal.frames} frames are kept, {done - journal.frames} will be computed again")
            raise
        return timing

    def _finish(self, output: Output, journal: Journal, survey: PacketSurvey) -> tuple[str, ...]:
        """Join, check, and only then give the target its name; returns notes."""
        if not journal.segments:
            raise VideoError(f"{self._source}: gives no frame; check --from and --until, and that the file is whole")
        require_whole(journal.segments, output.per_segment)
        joined = self._part / f"joined{self._target.suffix}"
        segments = [self._part / segment.name for segment in journal.segments]
        out, encoding, streams = output.format, output.encoding, output.streams
        source, start, until = _container(self._source), self._options.start, self._options.until
        result = join(segments, joined, out, encoding, streams, source=source, start=start, until=until, survey=survey)
        check_result(joined, Expected.of(out, encoding, streams, result))
        journal.conclude()
        put_in_place(joined, self._target)
        return result.notes


def _network(
    upscaler: FrameUpscaler, options: VideoOptions, source: VideoFormat, planes: PlaneFormat | None = None
) -> FrameNetwork:
    per_segment = options.segment_frames or segment_frames(upscaler, source)
    return FrameNetwork(upscaler, reuse=options.reuse, per_segment=per_segment, planes=planes)


def _opened(path: Path, options: VideoOptions) -> FrameSource:
    return open_source(
        sys.stdin.buffer if path == PIPE else path,
        rate=options.fps,
        begin=options.start,
        until=options.until,
        deinterlace=options.deinterlace,
        on_damage=options.on_damage,
    )


def _container(path: Path) -> Path | None:
    """The file whose other streams are copied; pictures have none."""
    return None if names_stream(path) or path.suffix.lower() in PICTURES_THAT_MOVE | {".apng"} else path
