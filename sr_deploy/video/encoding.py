"""Which codec, pixel format and options a video is written with, tried on one frame before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import av
import av.error
import av.logging
from av.codec import Codec
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from sr_deploy.errors import UsageError
from sr_deploy.pictures.image import CONTAINERS
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.hdr import add_hdr
from sr_deploy.video.log import heard

THREADS = 8
"""Of encoders. They change what x264 and x265 write, so no machine has its own number; `threads=N` as an option changes it."""

_FALLBACK_RATE = Fraction(25)
_ERRORS = (av.error.FFmpegError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _Codec:
    """How one encoder calls what we call quality and preset, and what it gets besides."""

    quality: str | None
    crf: float | None
    preset: str | None
    default_preset: str | None
    options: Mapping[str, str]
    parameters: str | None = None
    highest: float = 51
    presets: tuple[str, ...] = ()


_SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_CODECS = {
    "libx264": _Codec("crf", 17, "preset", "veryfast", {}, "x264-params", presets=_SPEEDS),
    # Closed GOPs: every keyframe is a place to cut. Its own log would go to stderr.
    "libx265": _Codec(
        "crf", 18, "preset", "veryfast", {"x265-params": "log-level=none:open-gop=0"}, "x265-params", presets=_SPEEDS
    ),
    "libsvtav1": _Codec("crf", 22, "preset", "8", {}, "svtav1-params", 63),
    "libvpx-vp9": _Codec("crf", 20, "cpu-used", "4", {"row-mt": "1", "deadline": "good"}, highest=63),
    "prores_ks": _Codec(None, None, None, None, {"vendor": "apl0"}),
    "ffv1": _Codec(None, None, None, None, {"level": "3", "g": "1", "slicecrc": "1"}),
    "h264_nvenc": _Codec("cq", 19, "preset", "p5", {"rc": "vbr"}),
    "hevc_nvenc": _Codec("cq", 20, "preset", "p5", {"rc": "vbr"}),
    "av1_nvenc": _Codec("cq", 24, "preset", "p5", {"rc": "vbr"}),
}
CODECS = tuple(_CODECS)
"""The encoders that can be chosen."""


@dataclass(frozen=True)
class Encoding:
    """How frames become packets.

    options: everything that the encoder is opened with besides the stream's own facts, crf and preset included.
    notes: what the codec cannot keep, in sentences.
    """

    codec: str
    crf: float | None
    preset: str | None
    pixel_format: str
    options: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def container_format(suffix: str) -> str:
    """FFmpeg's name of the format of a file ending such as '.mkv'.

    Raises: UsageError for an ending that is not written.
    """
    try:
        return CONTAINERS["." + suffix.lower().removeprefix(".")]
    except KeyError:
        expected = ", ".join(CONTAINERS)
        raise UsageError(f"cannot write a video as '{suffix}'; expected one of {expected}; .mkv holds the most") from None


def choose_encoding(
    source: VideoFormat,
    out: VideoFormat,
    container: str,
    *,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pixel_format: str | None = None,
    options: tuple[tuple[str, str], ...] = (),
) -> Encoding:
    """The encoding that keeps the depth and chroma of `source` in frames of the size of `out`, proven by encoding one frame.

    container: the ending of the file, such as '.mkv'. Without `codec` it is H.264 for 8 bits, HEVC up to 12, FFV1 above; in
    .webm VP9 or AV1. options: passed to the encoder as they are.

    Raises: UsageError for a codec, preset, pixel format or option that does not exist here, or that does not go together.
    """
    name = codec or _default_codec(source, container_format(container))
    require_codec(name, container)
    settings = _settings(name, crf, preset, options)
    first: Exception | None = None
    wanted = _candidates(name, source, pixel_format)
    level = _CODECS[name].crf if crf is None else crf
    for candidate in wanted:
        encoding = Encoding(name, level, settings.get(_CODECS[name].preset or ""), candidate, tuple(settings.items()))
        try:
            _try(out, encoding)
        except _ERRORS as exc:
            first = first or exc
            continue
        return replace(encoding, notes=tuple(_notes(source, out, encoding, candidate != wanted[0])))
    raise UsageError(
        f"{name} refuses {out.width}x{out.height} {wanted[0]} with {_listed(settings)} ({_reason(first)}); "
        "expected settings that it takes: change --codec, --preset, --pix-fmt or -e"
    ) from first


def encoded_format(out: VideoFormat, encoding: Encoding) -> VideoFormat:
    """What the written stream is: `out` in the pixel format of the encoding, its tags true for it."""
    pixel = av.VideoFormat(encoding.pixel_format)
    tags = out.tags
    if out.pixel_format.startswith("yuvj"):
        tags = replace(tags, range=2)
    if _is_rgb(out.pixel_format) and not pixel.is_rgb:
        # Pixels that were RGB have a matrix only now.
        tags = replace(tags, matrix=1, range=1)
    return replace(out, pixel_format=pixel.name, depth=pixel.components[0].bits, tags=tags)


def frame_clock(out: VideoFormat) -> Fraction:
    """Seconds per tick of the encoder's own clock, which counts frames: the container carries the time.

    Codecs limit their time bases, and time stamps would make equal frames into different bits.
    """
    rate = out.rate
    return 1 / (rate if rate and 1 <= rate <= 1000 else _FALLBACK_RATE)


def configure(context: VideoCodecContext, out: VideoFormat, encoding: Encoding) -> None:
    """Put all facts of the stream and all options into an encoder that is not open yet."""
    if encoding.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")
    out = encoded_format(out, encoding)
    context.width, context.height, context.pix_fmt = out.width, out.height, out.pixel_format
    context.time_base, context.framerate = frame_clock(out), 1 / frame_clock(out)
    context.bit_rate = 0
    context.flags |= Flags.global_header
    # Alone, threads within a frame would mean x264's sliced threads, which cost quality.
    context.thread_type, context.thread_count = "AUTO", THREADS
    context.field_order = 1
    if out.sample_aspect:
        context.sample_aspect_ratio = out.sample_aspect
    context.colorspace, context.color_range = out.tags.matrix, out.tags.range
    context.color_primaries, context.color_trc = out.tags.primaries, out.tags.transfer
    context.options = dict(encoding.options) | {"chroma_sample_location": str(out.tags.chroma_location)}
    add_hdr(context.options, out, _CODECS[encoding.codec].parameters)


def open_encoder(out: VideoFormat, encoding: Encoding) -> VideoCodecContext:
    """An open encoder outside of any container.

    Raises: UsageError when the encoder does not know an option.
    """
    context = cast(VideoCodecContext, VideoCodecContext.create(encoding.codec, "w"))
    configure(context, out, encoding)
    with heard(av.logging.WARNING) as messages:
        context.open()
    # What an encoder says of options that it would otherwise ignore.
    complaints = [text.strip() for _, _, text in messages if "option" in text.lower() or "parse" in text.lower()]
    if context.options:
        raise UsageError(f"{encoding.codec} has no option {_listed(context.options)}; expected one of `ffmpeg -h encoder=...`")
    if complaints:
        raise UsageError(f"{encoding.codec}: {complaints[0]}; correct or remove that option")
    return context


def _try(out: VideoFormat, encoding: Encoding) -> None:
    context = open_encoder(out, encoding)
    frame = av.VideoFrame(out.width, out.height, encoding.pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    if not context.encode(frame) + context.encode(None):
        raise ValueError("it gives no packet")


def _default_codec(source: VideoFormat, container: str) -> str:
    if container == "webm":
        return "libvpx-vp9" if source.depth <= 8 else "libsvtav1"
    if source.depth <= 8:
        return "libx264"
    return "libx265" if source.depth <= 12 or container != "matroska" else "ffv1"


def require_codec(name: str, container: str) -> None:
    """Raises: UsageError for a codec that is not here, or that a file of that ending cannot hold."""
    if name not in _CODECS or name not in av.codecs_available:
        here = ", ".join(codec for codec in CODECS if codec in av.codecs_available)
        raise UsageError(f"no codec '{name}'; expected one of {here}")
    with av.open(os.devnull, "w", format=container_format(container)) as probe:
        try:
            probe.add_stream(name)
        except ValueError as exc:
            raise UsageError(f"'{container}' cannot hold {name}; use .mkv, or another --codec") from exc


def _settings(name: str, crf: float | None, preset: str | None, options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """All options of the encoder, in the order of their weight; the user's last."""
    codec = _CODECS[name]
    if crf is not None and codec.quality is None:
        raise UsageError(f"{name} has no crf; remove --crf, or choose libx264, libx265 or libsvtav1")
    if preset is not None and codec.preset is None:
        raise UsageError(f"{name} has no presets; remove --preset")
    if crf is not None and not 0 <= crf <= codec.highest:
        raise UsageError(f"crf {crf:g} is out of the range of {name}; expected 0 (best) to {codec.highest:g}")
    if preset is not None and codec.presets and preset not in codec.presets:
        raise UsageError(f"{name} has no preset '{preset}'; expected one of {', '.join(codec.presets)}")
    settings = dict(codec.options)
    if codec.quality:
        settings[codec.quality] = f"{codec.crf if crf is None else crf:g}"
    if codec.preset and codec.default_preset:
        settings[codec.preset] = preset or codec.default_preset
    for key, value in options:
        joined = key == codec.parameters and key in settings
        settings[key] = f"{settings[key]}:{value}" if joined else value
    return settings


def _reason(error: Exception | None) -> str:
    """What the encoder said last, without the call that it said it in."""
    log = getattr(error, "log", None)
    return str(log[2]).strip() if log else str(getattr(error, "strerror", None) or error)


def _listed(options: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items()) or "no options"


def _is_rgb(pixel_format: str) -> bool:
    pixel = av.VideoFormat(pixel_format)
    return pixel.is_rgb or pixel.has_palette


def _chroma(pixel_format: str) -> tuple[int, int]:
    """How many luma samples share a chroma sample, across and down; (0, 0) for gray."""
    pixel = av.VideoFormat(pixel_format, 4096, 4096)
    if _is_rgb(pixel_format):
        return (1, 1)
    if len(pixel.components) < 3:
        return (0, 0)
    return (4096 // pixel.chroma_width(), 4096 // pixel.chroma_height())


def _candidates(name: str, source: VideoFormat, pixel_format: str | None) -> list[str]:
    """Pixel formats of the codec, the one nearest to the source's first; later ones hold at least as much."""
    known = [pixel.name for pixel in Codec(name, "w").video_formats or [] if not pixel.name.startswith("yuvj")]
    if pixel_format is not None:
        if pixel_format not in known:
            raise UsageError(f"{name} has no pixel format '{pixel_format}'; expected one of {', '.join(known)}")
        return [pixel_format]
    # Few players show 4:0:0, so gray gets chroma that says nothing, except in masters.
    return _nearest(source, [pixel for pixel in known if _is_plain(pixel) and (name == "ffv1" or not pixel.startswith("gray"))])


def _nearest(source: VideoFormat, names: Iterable[str]) -> list[str]:
    """The names that lose least, the smallest first."""
    ordered = sorted(names, key=lambda candidate: _distance(source, candidate))
    lost = _distance(source, ordered[0])[:2]
    return [candidate for candidate in ordered if _distance(source, candidate)[:2] == lost]


def raw_encoding(out: VideoFormat, names: Iterable[str]) -> Encoding:
    """Frames as they are, in the one of these pixel formats that is nearest to theirs."""
    return Encoding("rawvideo", None, None, _nearest(out, names)[0])


def _is_plain(pixel_format: str) -> bool:
    """Whether it is YCbCr or gray, as players expect, without alpha."""
    pixel = av.VideoFormat(pixel_format)
    odd = ("msb", "nv", "yaf", "grayf", "cuda")
    yuv = not pixel.is_rgb and not any(component.is_alpha for component in pixel.components)
    return yuv and not any(word in pixel_format for word in odd)


def _distance(source: VideoFormat, candidate: str) -> tuple[int, int, int, int]:
    """Bits and chroma lost, then bits and chroma samples too many; the smallest is the best."""
    depth = av.VideoFormat(candidate).components[0].bits
    (across, down), (wanted_across, wanted_down) = _chroma(candidate), _chroma(source.pixel_format)
    if not across:
        return (max(source.depth - depth, 0), 100 if wanted_across else 0, max(depth - source.depth, 0), 0)
    if not wanted_across:
        return (max(source.depth - depth, 0), 0, max(depth - source.depth, 0), 100 - across * down)
    coarser = max(across // wanted_across, 1) * max(down // wanted_down, 1) - 1
    finer = max(wanted_across // across, 1) * max(wanted_down // down, 1) - 1
    return (max(source.depth - depth, 0), coarser, max(depth - source.depth, 0), finer)


def _notes(source: VideoFormat, out: VideoFormat, encoding: Encoding, second: bool) -> Iterator[str]:
    bits, chroma, _, _ = _distance(source, encoding.pixel_format)
    if second:
        yield f"{encoding.codec} takes no {out.width}x{out.height} with the source's chroma; written as {encoding.pixel_format}"
    if bits:
        yield f"{source.depth} bits become {source.depth - bits}: {encoding.pixel_format} holds no more"
    if chroma:
        yield f"color is written in fewer samples than the source's {source.pixel_format}: {encoding.pixel_format}"
    if (source.mastering or source.light) and not _CODECS[encoding.codec].parameters:
        yield f"{encoding.codec} cannot carry HDR metadata in its frames; only the container does"
