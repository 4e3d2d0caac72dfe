"""What else the source holds, and what of it the output container can hold: tried before the first frame is computed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any, Literal

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.video.acm import add_acm
from sr_deploy.video.encoding import Encoding, container_format, encoded_format, open_encoder, require_codec
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.header import stream_template
from sr_deploy.video.input import Input
from sr_deploy.video.packets import packets_of

ERRORS = (av.error.FFmpegError, OSError, ValueError)
_NOT_COPIED = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "rotate"}


@dataclass(frozen=True)
class Copied:
    """A stream of the source that goes into the output.

    convert: the codec that its text moves into, 'attachment' for a cover, which Matroska holds as an attached file, or 'acm'
    for sound that it holds under another name.
    """

    index: int
    kind: str
    codec: str
    language: str | None
    disposition: int
    convert: Literal["", "subrip", "attachment", "acm"] = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.index} ({self.codec}{', ' + self.language if self.language else ''})"


@dataclass(frozen=True)
class StreamPlan:
    """Which streams of the source are copied; notes: what is lost or changed; problems: what must be decided first."""

    container: str
    video_index: int | None = None
    copied: tuple[Copied, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def require(self) -> None:
        """Raises: UsageError when there are problems."""
        if self.problems:
            raise UsageError("; ".join(self.problems))


def plan_streams(
    source: Input | None,
    container: str,
    out: VideoFormat,
    encoding: Encoding,
    *,
    drop_unsupported: bool = False,
    packets: dict[int, int] | None = None,
) -> StreamPlan:
    """The streams that can be copied into a file of that ending, each proven by a header and its first packet in memory.

    source: None without a file, as for pictures and standard input. drop_unsupported makes notes of problems. packets: how many
    each stream has, where it is known.

    Raises: UsageError when the container cannot hold the upscaled video itself. VideoError when the source cannot be read.
    """
    name = container_format(container)
    require_codec(encoding.codec, container)
    if source is None:
        return StreamPlan(name)
    encoder = open_encoder(out, encoding)
    sample = _Sample(encoder.codec.canonical_name, encoder.extradata or b"", encoded_format(out, encoding))
    problems: list[str] = []
    with source.open() as opened:
        main = main_video(opened, None)
        first = _first_packets(opened, main, packets or {})
        copied, notes = [], []
        for stream in opened.streams:
            if stream.index == main.index or is_made_by_muxer(stream):
                continue
            found, trouble = _judge(stream, first.get(stream.index), name, container, sample)
            if found is not None:
                copied.append(found)
                notes += [trouble] if trouble else []
            elif stream.type == "data":
                notes.append(trouble)
            else:
                problems.append(trouble)
        # Within the block: a stream is not to be asked for anything after its file is closed.
        if drop_unsupported:
            notes, problems = notes + [problem.split("; ")[0] for problem in problems], []
        return StreamPlan(name, main.index, tuple(copied), tuple(notes), tuple(problems))


def main_video(opened: InputContainer, index: int | None) -> VideoStream:
    """The video stream that is upscaled.

    Raises: VideoError when there is none.
    """
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in opened.streams.video:
        if stream.index == index or (index is None and not stream.disposition & covers):
            return stream
    raise VideoError(f"{opened.name}: no video stream; expected at least one")


def is_made_by_muxer(stream: Stream) -> bool:
    """Whether it only repeats what is said elsewhere: the names of chapters, or the time code that is a tag of the video.

    The muxers of MP4 and MOV write such streams by themselves, and Matroska holds the tag.
    """
    return stream.discard == Discard.all or (stream.type == "data" and "timecode" in stream.metadata)


def add_copy(output: OutputContainer, stream: Stream, copied: Copied, cover: bytes = b"") -> Stream:
    """A stream of the output that takes the packets of a stream of the source, with its tags and disposition.

    cover: the picture of a stream that becomes an attachment, and so gets no packets.
    """
    if copied.convert == "attachment":
        return _attach(output, stream, copied, cover)
    if copied.convert == "acm":
        added: Stream = add_acm(output, stream)
        added.time_base = stream.time_base
    elif copied.convert:
        added = output.add_mux_stream(copied.convert)
        added.time_base = stream.time_base
    elif stream.type == "attachment":
        added = output.add_stream_from_template(stream)
    else:
        added = output.add_stream_from_template(stream, opaque=True)
    added.metadata.clear()
    added.metadata.update(kept_metadata(stream.metadata))
    added.disposition = stream.disposition
    return added


def _attach(output: OutputContainer, stream: Stream, copied: Copied, cover: bytes) -> Stream:
    kind = {"mjpeg": "jpeg"}.get(copied.codec, copied.codec)
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    added = output.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), cover)
    added.metadata.update(kept_metadata(stream.metadata))
    return added


def cover_of(opened: InputContainer, index: int) -> bytes:
    """The picture of a stream that is a cover; it comes before all other packets."""
    return next((bytes(packet) for packet in packets_of(opened, opened.streams[index]) if packet.size), b"")


def add_video(output: OutputContainer, template: VideoStream, encoded: VideoFormat) -> VideoStream:
    """The upscaled stream in the output, as a copy of its template."""
    added = output.add_stream_from_template(template, opaque=True)
    added.time_base = encoded.time_base
    if encoded.sample_aspect:
        added.codec_context.sample_aspect_ratio = encoded.sample_aspect
    added.set_display_matrix(encoded.display_matrix)
    if encoded.rate:
        added.codec_context.framerate = encoded.rate
    return added


def kept_metadata(metadata: dict[str, str], statistics: bool = True) -> dict[str, str]:
    """Tags without those that describe the old file; without statistics too for a stream that is new."""
    measured = ("BPS", "NUMBER_OF_", "_STATISTICS")
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _NOT_COPIED and (statistics or not key.upper().startswith(measured))
    }


def output_options(name: str, time_bases: Iterable[Fraction | None]) -> dict[str, str]:
    """Options of a muxer that keep times and dispositions as they are, make equal files of equal packets, and no checksums."""
    options = {"fflags": "+bitexact"}
    if name in ("matroska", "webm"):
        return options | {"avoid_negative_ts": "disabled", "default_mode": "passthrough", "write_crc": "0"}
    # Edit lists count in the movie's time scale: a start between two of its ticks would be rounded.
    scale = 1000
    for base in time_bases:
        finer = lcm(scale, base.denominator) if base else scale
        scale = finer if finer < 2**31 else scale
    return options | {"movie_timescale": str(scale)}


@dataclass(frozen=True)
class _Sample:
    """The video of the output without a frame, enough to write a file of any container."""

    codec: str
    extradata: bytes
    encoded: VideoFormat

    def write(self, name: str, stream: Stream, packet: Packet[Any] | None, copied: Copied) -> None:
        """A whole file in memory with one packet of a stream of the source."""
        options = output_options(name, [self.encoded.time_base, stream.time_base])
        with (
            stream_template(self.codec, self.extradata, self.encoded) as template,
            av.open(io.BytesIO(), "w", format=name, container_options=options) as output,
        ):
            add_video(output, template, self.encoded)
            added = add_copy(output, stream, copied, bytes(packet or b""))
            output.start_encoding()
            if packet is not None and added.type != "attachment":
                packet.stream, packet.pts, packet.dts = added, 0, 0
                output.mux(packet)


def _first_packets(opened: InputContainer, main: VideoStream, counts: dict[int, int]) -> dict[int, Packet[Any]]:
    """The first packet with content of each stream; all are read if one has none."""
    first: dict[int, Packet[Any]] = {}
    expected = {
        s.index for s in opened.streams if s.type != "attachment" and s.discard != Discard.all and counts.get(s.index, 1)
    }
    try:
        for packet in packets_of(opened):
            if packet.size and packet.pts is not None:
                first.setdefault(packet.stream_index, packet)
            if expected <= first.keys():
                break
    except ERRORS:
        pass  # The reader of the pictures says what is wrong with a broken source.
    first.pop(main.index, None)
    return first


def _judge(stream: Stream, packet: Packet[Any] | None, name: str, container: str, sample: _Sample) -> tuple[Copied | None, str]:
    """How the stream is copied and what to say of it, or None and why it cannot be."""
    codec = codec_name(stream)
    plain = Copied(stream.index, stream.type, codec, stream.language, int(stream.disposition))
    choices = [plain]
    if codec == "mov_text":
        choices.append(replace(plain, convert="subrip"))
    if name == "matroska" and stream.type == "audio" and "truehd" not in map(codec_name, stream.container.streams):
        choices.append(replace(plain, convert="acm"))
    if name == "matroska" and stream.disposition & Disposition.attached_pic:
        choices = [replace(plain, convert="attachment")]
    reason = ""
    for copied in choices:
        try:
            sample.write(name, stream, converted(packet, copied) if packet else None, copied)
        except ERRORS as exc:
            reason = reason or str(getattr(exc, "strerror", None) or exc)
            continue
        return copied, f"{plain} becomes {copied.convert}: '{container}' holds no {codec}" if copied.convert == "subrip" else ""
    if stream.type == "data":
        return None, f"{plain} is left out: '{container}' cannot hold it ({reason})"
    way_out = "drop it with --drop-unsupported" if name == "matroska" else "use .mkv, or drop it with --drop-unsupported"
    return None, f"'{container}' cannot hold {plain} ({reason}); {way_out}"


def codec_name(stream: Stream) -> str:
    """FFmpeg's name of its codec; of an attachment the name of its file."""
    if stream.type in ("data", "attachment"):
        return stream.name or "unknown"
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


def converted(packet: Packet[Any], copied: Copied) -> Packet[Any] | None:
    """The packet as it goes into the output; None for a gap between subtitles, which only the old codec needs."""
    if copied.convert != "subrip":
        return packet
    data = bytes(packet)
    text = data[2 : 2 + int.from_bytes(data[:2], "big")]
    if not text:
        return None
    plain = Packet(text)
    plain.pts, plain.dts, plain.duration, plain.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    plain.is_keyframe = True
    return plain
