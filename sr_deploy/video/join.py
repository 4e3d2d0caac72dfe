"""Segments and the other streams of the source -> the final file, without encoding anything again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
from av.codec import Codec
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sr_deploy.errors import VideoError
from sr_deploy.files import put_in_place
from sr_deploy.video.acm import rename_acm
from sr_deploy.video.copies import Copies, Cut, covers_of
from sr_deploy.video.encoding import Encoding, encoded_format
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.header import stream_template
from sr_deploy.video.input import Input
from sr_deploy.video.segment import SHIFT, close_unfinished, write_error
from sr_deploy.video.streams import (
    ERRORS,
    StreamPlan,
    add_video,
    kept_metadata,
    main_video,
    output_options,
)
from sr_deploy.video.survey import PacketSurvey


@dataclass(frozen=True)
class Joined:
    """What the final file holds. pts: of every frame in the order shown, in ticks of `time_base`, as given to the file.

    packets: how many were copied of each stream of the source, by its index. notes: what a user should know.
    """

    path: Path
    time_base: Fraction
    pts: tuple[int, ...]
    last_duration: int
    packets: dict[int, int]
    chapters: int
    notes: tuple[str, ...]


def join(
    segments: Sequence[Path],
    target: Path,
    out: VideoFormat,
    encoding: Encoding,
    plan: StreamPlan,
    *,
    source: Input | None = None,
    start: Fraction | None = None,
    until: Fraction | None = None,
    survey: PacketSurvey | None = None,
    trial: bool = False,
) -> Joined:
    """Write `target` from finished segments, in their order, and the streams of `source` that the plan names.

    Packets are copied bit by bit. Everything is moved so that the earliest picture or sound is at zero, or the first frame
    where `start` is given. start, until: in seconds from where the source begins, the range that other streams are cut
    to. survey: of the source. trial: copy the first packet of each stream only. target appears only when it is complete. A
    source that is broken at its end gives what it has, and a note.

    Raises: VideoError when a segment is missing, damaged, of other settings or out of order, and when the disk refuses.
    """
    encoded, known = encoded_format(out, encoding), survey or PacketSurvey()
    scan = _scan(segments, encoded.time_base)
    last = _last_duration(None if trial else source, plan, scan.shown, encoded)
    covers = covers_of(source, plan)
    part = target.with_name(target.name + ".part")
    # No container starts before zero, so such a video is moved as a whole.
    begin = math.floor(known.begin / encoded.time_base)
    origin = scan.shown[0] if start is not None else min(scan.shown[0], begin)
    cut = Cut(origin * encoded.time_base, start is not None, None if until is None else until + known.start)
    codec = Codec(encoding.codec, "w").canonical_name
    with ExitStack() as stack:
        opened = stack.enter_context(source.open()) if source is not None else None
        template = stack.enter_context(stream_template(codec, scan.extradata, encoded))
        try:
            output = _open_output(part, plan, encoded, opened)
        except ERRORS as exc:
            raise write_error(target, exc) from exc
        what = "its header"
        try:
            video = add_video(output, template, encoded)
            copies = Copies(opened, output, plan, cut, covers, known, trial)
            chapters = cut.chapters(opened) if opened is not None else []
            output.set_chapters(chapters)
            if opened is not None:
                _describe(output, video, opened, main_video(opened, plan.video_index))
            pictures = _pictures(segments, scan, video, origin, last)
            for packet in _merged(pictures, copies.packets()):
                what = copies.names.get(packet.stream_index, "the video")
                output.mux(packet)
            what = "its end"
            output.close()
            if any(copied.convert == "acm" for copied in plan.copied):
                rename_acm(part)
            put_in_place(part, target)
        except BaseException as exc:
            close_unfinished(output)
            part.unlink(missing_ok=True)
            if isinstance(exc, ERRORS):
                raise write_error(target, exc, what) from exc
            raise
    shown = tuple(pts - origin for pts in scan.shown)
    return Joined(target, encoded.time_base, shown, last, copies.counts, len(chapters), tuple(copies.notes))


@dataclass(frozen=True)
class _Scan:
    """pts of all packets as decoded, and sorted as shown."""

    extradata: bytes
    coded: list[int]
    shown: list[int]
    depth: int


def _scan(segments: Sequence[Path], time_base: Fraction) -> _Scan:
    """Read all segments once: they must be whole, of the same encoder, and follow each other."""
    if not segments:
        raise VideoError("nothing to join; expected at least one segment")
    coded: list[int] = []
    shown: list[int] = []
    depth, first_extradata = 0, b""
    for path in segments:
        with _segment(path) as (opened, video):
            extradata = video.codec_context.extradata or b""
            times = [_ticks(packet, time_base) - _shift(opened) for packet in opened.demux(video) if packet.size]
        if not times:
            raise VideoError(f"{path}: holds no frame; remove it and run again")
        if shown and extradata != first_extradata:
            raise VideoError(f"{path}: was encoded with other settings than {segments[0].name}; remove it and run again")
        first_extradata = extradata
        ordered = sorted(times)
        if shown and ordered[0] <= shown[-1]:
            raise VideoError(f"{path}: begins at {ordered[0]}, but {shown[-1]} is shown before it; remove it and run again")
        ranks = {pts: rank for rank, pts in enumerate(ordered)}
        depth = max(depth, *(number - ranks[pts] for number, pts in enumerate(times)))
        coded += times
        shown += ordered
    return _Scan(first_extradata, coded, shown, depth)


@contextmanager
def _segment(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(f"file:{path}", "r") as opened:
            yield opened, opened.streams.video[0]
    except (*ERRORS, IndexError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise VideoError(f"{path}: cannot be read as a segment ({reason}); remove it and run again") from exc


def _ticks(packet: Packet[Any], time_base: Fraction) -> int:
    """When the packet is shown, in whole ticks: segments keep them exactly."""
    return round(cast(int, packet.pts) * packet.time_base / time_base)


def _shift(opened: InputContainer) -> int:
    return int(opened.metadata.get(SHIFT, "0"))


def _last_duration(source: Input | None, plan: StreamPlan, shown: Sequence[int], encoded: VideoFormat) -> int:
    """How long the last frame is shown, in ticks: as the source says, else as long as the one before."""
    if source is not None:
        with source.open() as opened:
            found = _source_duration(opened, main_video(opened, plan.video_index), shown[-1] * encoded.time_base)
        if found:
            return round(found / encoded.time_base)
    if len(shown) > 1:
        return shown[-1] - shown[-2]
    return max(round(1 / (encoded.rate or 25) / encoded.time_base), 1)


def _source_duration(opened: InputContainer, video: VideoStream, shown: Fraction) -> Fraction:
    base = cast(Fraction, video.time_base)
    try:
        opened.seek(round(shown / base), stream=video)
        for packet in opened.demux(video):
            if packet.pts is not None and packet.pts * base == shown:
                return (packet.duration or 0) * base
    except ERRORS:
        pass  # Broken there: the length of the frame before is used.
    return Fraction(0)


def _open_output(part: Path, plan: StreamPlan, encoded: VideoFormat, opened: InputContainer | None) -> OutputContainer:
    bases = [
        encoded.time_base,
        *(stream.time_base for stream in (opened.streams if opened else ()) if stream.type != "attachment"),
    ]
    options = output_options(plan.container, bases)
    return av.open(f"file:{part}", "w", format=plan.container, container_options=options)


def _describe(output: OutputContainer, video: VideoStream, opened: InputContainer, main: VideoStream) -> None:
    output.metadata.update(kept_metadata(opened.metadata))
    video.metadata.clear()
    video.metadata.update(kept_metadata(main.metadata, statistics=False))
    video.disposition = main.disposition
    codes = [stream.metadata["timecode"] for stream in opened.streams if "timecode" in stream.metadata]
    if codes:
        video.metadata.setdefault("timecode", codes[0])


def _pictures(segments: Sequence[Path], scan: _Scan, video: VideoStream, origin: int, last: int) -> Iterator[Packet[Any]]:
    """All video packets, with decoding times that rise through all segments: those of the frames shown, `depth` frames ago."""
    base = cast(Fraction, video.time_base)
    shown = [*scan.shown, scan.shown[-1] + last]
    rank = {pts: number for number, pts in enumerate(scan.shown)}
    lead = _lead(scan, shown, rank)
    for number, (packet, shift) in enumerate(_packets(segments)):
        pts, earlier = _ticks(packet, base) - shift, number - scan.depth
        packet.stream, packet.time_base = video, base
        packet.pts, packet.duration = pts - origin, shown[rank[pts] + 1] - pts
        packet.dts = (shown[earlier] if earlier >= 0 else shown[0] + earlier * lead // scan.depth) - origin
        yield packet


def _lead(scan: _Scan, shown: Sequence[int], rank: dict[int, int]) -> int:
    """How long before it is shown the first frame is decoded, in ticks.

    MP4 adds up the times from one decoding to the next: the sum is the length of the video when the lead is as long as the
    frames that are still to be shown after the last decoding, less the frame decoded last.
    """
    if len(scan.coded) <= scan.depth:
        return scan.depth
    final = scan.coded[-1]
    left = shown[-1] - shown[len(scan.coded) - 1 - scan.depth]
    return max(left - (shown[rank[final] + 1] - final), scan.depth)


def _packets(segments: Sequence[Path]) -> Iterator[tuple[Packet[Any], int]]:
    """Every packet, and the ticks that its time is too late."""
    for path in segments:
        with _segment(path) as (opened, stream):
            for packet in opened.demux(stream):
                if packet.size:
                    yield packet, _shift(opened)


def _merged(one: Iterator[Packet[Any]], other: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Both in the order of their decoding times, so that the muxer keeps little."""
    first, second = next(one, None), next(other, None)
    while first is not None and second is not None:
        if _time(second) <= _time(first):
            yield second
            second = next(other, None)
        else:
            yield first
            first = next(one, None)
    rest, more = (first, one) if first is not None else (second, other)
    if rest is not None:
        yield rest
        yield from more


def _time(packet: Packet[Any]) -> Fraction:
    when = packet.dts if packet.dts is not None else packet.pts
    return Fraction(-1) if when is None else when * packet.time_base
