"""A source, a network and options -> a plan: what can be refused is refused here, before the first frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from sr_deploy import __version__
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import BackendUnavailableError, EngineError, UsageError, VideoError
from sr_deploy.film.identity import network_identity, source_identity
from sr_deploy.film.journal import Journal
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.output import Output, enlarged, planes_for, segment_frames, space_notes
from sr_deploy.film.plan import VideoPlan, container_of
from sr_deploy.film.rehearsal import rehearse
from sr_deploy.film.stages import FrameNetwork
from sr_deploy.film.times import frame_times, segments_of
from sr_deploy.pictures.image import names_stream
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.cursor import SharedFile
from sr_deploy.video.encoding import THREADS, choose_encoding
from sr_deploy.video.frame import FrameUpscaler, VideoFormat
from sr_deploy.video.images import FrameSource, open_source
from sr_deploy.video.input import Input, input_of
from sr_deploy.video.segment import OpenEncoder
from sr_deploy.video.streams import plan_streams
from sr_deploy.video.survey import PacketSurvey

if TYPE_CHECKING:
    from sr_deploy.video.nvenc import Nvenc


@dataclass(frozen=True)
class Way:
    """How this process computes frames. encoder: None for FFmpeg's; planes: what the network gives, None for RGB."""

    encoder: OpenEncoder | None
    planes: PlaneFormat | None
    identity: dict[str, Any]
    notes: tuple[str, ...]


def plan_video(
    source: str | Path | BinaryIO,
    target: str | Path,
    upscaler: FrameUpscaler,
    *,
    options: VideoOptions | None = None,
    network: dict[str, Any] | None = None,
    decode_all: bool = False,
) -> VideoPlan:
    """Decide all that a run would before its first frame, and where its segments begin and end; kept in TARGET.part.

    What an unfinished run of the same kind computed already is kept and counts. Nothing is upscaled but one black frame, which
    goes through encoder, container and check.

    source: a video by its path or http(s) address, or a pattern of numbered pictures.
    target: its ending names the container.
    upscaler: an Upscaler or MaskedUpscaler as those that will compute the segments.
    options: how it is read, upscaled and written; None is all by default.
    network: kept in the plan, for whoever opens the network by it.
    decode_all: take the times of frames from the decoder alone; without it those of packets are used where both agree on the
        first frames.

    Raises: UsageError for options that do not suit, for pipes, or where an unfinished run was made differently; VideoError for
    a source that cannot be read, a full disk, or a result that would not be right.
    """
    video, target, options = input_of(source), Path(target), options or VideoOptions()
    if video.pipe or isinstance(video.place, SharedFile) or names_stream(target):
        raise UsageError(
            f"{video.name} to {target}: only what other processes can open, and a file to write, can be planned; "
            "use `upscale` for pipes, pictures and file objects"
        )
    require_another_file(video, target)
    with opened(video, options) as frames:
        plan, way = decide(video, frames, target, upscaler, options)
        segments = segments_of(frame_times(frames, decode_all=decode_all), plan.output.per_segment)
        if not segments:
            raise VideoError(f"{video.name}: gives no frame; check --from and --until, and that the file is whole")
        with begun(plan, fresh=not options.resume):
            rehearse(plan, video, frames.start_pts, way.encoder)
            plan = replace(plan, segments=segments, network=network, notes=(*frames.notes, *plan.notes, *way.notes))
            plan.save()
    return plan


@contextmanager
def begun(plan: VideoPlan, *, fresh: bool) -> Iterator[Journal]:
    """The journal of a run; what fails before the first segment leaves nothing behind. fresh: forget what is finished.

    Raises: UsageError where an unfinished run was made differently; VideoError.
    """
    with Journal(plan.part, plan.identity, replace=plan.options.overwrite, fresh=fresh) as journal:
        try:
            yield journal
        except BaseException:
            if not journal.segments:
                journal.remove()
            raise


def opened(source: Input, options: VideoOptions, survey: PacketSurvey | None = None) -> FrameSource:
    """The source of a run. survey: where it is known already."""
    return open_source(
        source,
        rate=options.fps,
        begin=options.start,
        until=options.until,
        deinterlace=options.deinterlace,
        on_damage=options.on_damage,
        survey=survey,
    )


def decide(
    video: Input, source: FrameSource, target: Path, upscaler: FrameUpscaler, options: VideoOptions
) -> tuple[VideoPlan, Way]:
    """What is written and by which way; without segments yet.

    Raises: UsageError for options that do not suit; VideoError where the space on the disk is clearly not enough.
    """
    output = _output(video, source, target, upscaler, options)
    space = space_notes(target, source.frame_count, output)
    way = way_of(video, source.format, output, upscaler, options)
    notes = (*output.encoding.notes, *output.streams.notes, *space)
    plan = VideoPlan(video.location, target, options, source.format, output, source.survey, way.identity, notes)
    return plan, way


def way_of(video: Input, source: VideoFormat, output: Output, upscaler: FrameUpscaler, options: VideoOptions) -> Way:
    """How this process computes frames, and what the result depends on then."""
    nvenc, notes = _nvenc(source, output, upscaler)
    planes = nvenc.planes if nvenc else planes_for(upscaler, source, output.encoded)
    identity = _identity(video, source, output, upscaler, options, nvenc)
    return Way(nvenc.open if nvenc else None, planes, identity, notes)


def decode_where_asked(
    plan: VideoPlan, source: FrameSource, upscaler: FrameUpscaler, planes: PlaneFormat | None
) -> tuple[str, ...]:
    """Let frames be decoded on the GPU that upscales them; what to say where one cannot.

    Raises: BackendUnavailableError where it is asked for and cannot.
    """
    choice, on_gpu = plan.options.decode, isinstance(upscaler, Upscaler) and upscaler._gives_planes
    if choice == "cpu" or (choice == "auto" and not on_gpu):
        return ()
    from sr_deploy.video.nvcodec import decode_on_gpu

    reason = decode_on_gpu(source, upscaler, planes)
    if reason and choice == "nvdec":
        raise BackendUnavailableError(
            f"{input_of(plan.source).name}: NVDEC cannot decode it: {reason}; use --decode auto or cpu"
        )
    return (f"Decoded on the CPU: {reason}.",) if reason else ()


def frame_network(
    upscaler: FrameUpscaler, options: VideoOptions, source: VideoFormat, planes: PlaneFormat | None = None
) -> FrameNetwork:
    """What upscales the frames of a run, one after the other."""
    return FrameNetwork(upscaler, reuse=options.reuse, per_segment=_per_segment(upscaler, options, source), planes=planes)


def require_another_file(source: Input, target: Path) -> None:
    """Raises: UsageError for a target that is a folder, or the source itself."""
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; expected a file to write")
    if target.exists() and source.path and source.path.exists() and target.samefile(source.path):
        raise UsageError(f"{target}: would overwrite its own source; give another name")


def _per_segment(upscaler: FrameUpscaler, options: VideoOptions, source: VideoFormat) -> int:
    return options.segment_frames or segment_frames(upscaler, source)


def _output(video: Input, source: FrameSource, target: Path, upscaler: FrameUpscaler, options: VideoOptions) -> Output:
    suffix = target.suffix
    out = enlarged(source.format, upscaler.scale, options.size)
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
        container_of(video),
        *(suffix, out, encoding),
        drop_unsupported=options.drop_unsupported,
        packets=source.survey.packets,
    )
    streams.require()
    return Output(out, encoding, streams, _per_segment(upscaler, options, source.format))


def _nvenc(source: VideoFormat, output: Output, upscaler: FrameUpscaler) -> tuple[Nvenc | None, tuple[str, ...]]:
    """NVENC as it takes frames from the GPU that upscales them, where it is wanted; what to say where it cannot."""
    codec = output.encoding.codec
    if not codec.endswith("_nvenc") or not isinstance(upscaler, Upscaler) or not upscaler._gives_planes:
        return None, ()
    from sr_deploy.video.nvenc import nvenc_for, planar

    try:
        planes = planes_for(upscaler, source, planar(output.encoded))
        return nvenc_for(upscaler._frames_device(), planes, output.format, output.encoding), ()
    except (BackendUnavailableError, EngineError) as exc:
        return None, (f"Encoded by FFmpeg's {codec}, from the host's memory: {exc}.",)


def _identity(
    video: Input, source: VideoFormat, output: Output, upscaler: FrameUpscaler, options: VideoOptions, nvenc: Nvenc | None
) -> dict[str, Any]:
    out, encoding = output.format, output.encoding
    settings = dict(encoding.options) | ({"encoder": nvenc.identity} if nvenc else {})
    return {
        "source": source_identity(video),
        "network": network_identity(upscaler, source),
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
