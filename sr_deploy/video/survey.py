"""All packets of a file, read once before its first frame: where times start anew, where it is broken, where it should end."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any, BinaryIO

import av
import av.logging
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from sr_deploy.video.captions import CaptionSearch
from sr_deploy.video.extent import missing_bytes
from sr_deploy.video.fragments import fragment_bytes
from sr_deploy.video.index import ContradictionError, Index, index_of
from sr_deploy.video.input import Input
from sr_deploy.video.log import Message, complaints_of, heard
from sr_deploy.video.matroska import Unread
from sr_deploy.video.packets import packets_of
from sr_deploy.video.promises import NO_TIME, PictureTimes, missing_end
from sr_deploy.video.sample_tables import SampleTable, sample_tables
from sr_deploy.video.splices import Reach, Splice, splices_of
from sr_deploy.video.streams import codec_name

CUT = re.compile("ended prematurely")
"""What FFmpeg says of a file that was cut; whether that one promised more is seen elsewhere."""

_NOT_THERE = "{} of the pictures that its index counts are not there"

FAR = 10
"""Seconds behind the end at which no edit hides a picture."""

BACK = 10
"""What part of a second times may go back within a stream before they count as started anew, as in ffmpeg."""


@dataclass(frozen=True)
class PacketSurvey:
    """What all packets of a file tell; as it is by default, nothing.

    begin: when the first picture or sound is shown, in seconds; start: the same as FFmpeg takes it. packets: how many with
    content each stream has, by its index, or how many entries where an index tells of its sound. faults: where something is
    missing, as pts of the last picture before it, and why. captions: whether its pictures carry closed captions. hidden: how
    many pictures an edit list leaves out.
    """

    begin: Fraction = Fraction(0)
    start: Fraction = Fraction(0)
    packets: dict[int, int] = field(default_factory=dict)
    splices: tuple[Splice, ...] = ()
    faults: tuple[tuple[int | None, str], ...] = ()
    captions: bool = False
    hidden: int = 0

    def notes(self) -> Iterator[str]:
        """What a user should know, as sentences."""
        if self.hidden:
            yield f"Its edit list hides {self.hidden} picture{'s' * (self.hidden > 1)}: they are left out."
        if self.captions:
            yield "Closed captions in its pictures are left out."
        if self.splices:
            places = f"{len(self.splices)} place{'s' * (len(self.splices) > 1)}"
            yield f"Its times start anew in {places}; they are made to go on there."


@dataclass(slots=True)
class _Track:
    """Where a stream is. scale: ticks of the clock in one of its own; usual: length of a packet that tells none.

    flows: whether it is video or sound. part: how often times started anew. last, end: of its last packet.
    """

    scale: int
    usual: int
    flows: bool
    part: int = 0
    last: int | None = None
    end: int = 0
    count: int = 0
    filled: int = 0
    span: Reach | None = None


class _Reader:
    """Goes through all packets; times are whole ticks of one clock that holds those of every stream."""

    def __init__(self, container: InputContainer, video: VideoStream, times: array[int]) -> None:
        self._container, self._video, self._times = container, video, times
        bases = [stream.time_base for stream in container.streams if stream.time_base]
        self.clock = lcm(*(base.denominator for base in bases), av.time_base)
        self.frame = round(self.clock / (video.average_rate or Fraction(25)))
        self.spliced = Flags.ts_discont in Flags(container.format.flags)
        self.tracks: dict[int, _Track] = {}
        self.parts: list[dict[int, Reach]] = [{}]
        self.faults: list[tuple[int | None, str]] = []
        self.pieces: defaultdict[int, PictureTimes] = defaultdict(PictureTimes)
        self.latest: int | None = None
        self.bytes = 0
        self.hidden = 0
        self.latest_hidden = 0
        self.captions = CaptionSearch()
        self._index: Index | None = None
        self._filled: set[int] = set()
        self.unread = Unread()
        self._may_skip = container.format.name == "matroska,webm"

    def take_index(self, tables: Mapping[int, SampleTable]) -> None:
        """Leave out what the index tells: packets of sound, and most of the pictures."""
        for stream in self._container.streams.audio:
            entries, table = stream.index_entries, tables.get(stream.id)
            if table is None or not len(entries) == table.count > 1 or stream.time_base is None:
                continue
            stream.discard = Discard.all
            last, before = entries[-1].timestamp, entries[-2].timestamp
            self._fill(stream, len(entries), entries[0].timestamp, 2 * last - before)
        self._index = index_of(self._video, tables.get(self._video.id))
        if self._index is not None:
            self._video.discard = Discard.all
            self._filled.add(self._video.index)

    def _fill(self, stream: Stream, count: int, begin: int, end: int) -> _Track:
        """What `read` would have found of a stream; times in its ticks."""
        track = self.tracks.get(stream.index) or self._new_track(stream)
        track.filled = count
        self.parts[0][stream.index] = Reach(0, begin * track.scale, end * track.scale)
        self._filled.add(stream.index)
        return track

    def read(self) -> None:
        """Raises: ContradictionError where the index is not true."""
        if len(self._filled) < len(self._container.streams):
            self._read_packets()
        if self._index is not None:
            self._take_all(self._index)

    def _read_packets(self) -> None:
        with heard(av.logging.ERROR) as messages:
            for packet in _demuxed(self._container):
                if packet.stream_index not in self._filled:
                    self._take(packet)
                if messages:
                    self._listen(packet, messages)

    def _take(self, packet: Packet[Any]) -> None:
        if self._may_skip:
            self.unread.look(packet, self.latest)
        track = self.tracks.get(packet.stream_index) or self._new_track(packet.stream)
        self.bytes += packet.size
        self._count(packet, track)
        if packet.stream_index == self._video.index and packet.size:
            self._look(packet, track)

    def _listen(self, packet: Packet[Any], messages: list[Message]) -> None:
        complaints = complaints_of(self._container, messages)
        messages.clear()
        if complaints and (packet.size or not CUT.search(complaints[0])):
            self.faults.append((self.latest, f"FFmpeg says: {complaints[0]}"))

    def _take_all(self, index: Index) -> None:
        """All pictures, by the index. Raises: ContradictionError where it is not true."""
        index.verify(self._container, self._video, self.captions)
        track = self._fill(self._video, len(index.pts), int(index.pts.min()), int(index.until.max()))
        self._times.frombytes(index.pts[~index.hidden].tobytes())
        self.latest, self.hidden = int(index.pts.max()), int(index.hidden.sum())
        self.latest_hidden = int(index.pts[index.hidden].max(initial=0)) * track.scale

    def _new_track(self, stream: Stream) -> _Track:
        kind, base = stream.type, stream.time_base or Fraction(1, av.time_base)
        scale = base.numerator * (self.clock // base.denominator)
        track = _Track(scale, self.frame if kind == "video" else 0, kind in ("video", "audio"))
        self.tracks[stream.index] = track
        return track

    def _count(self, packet: Packet[Any], track: _Track) -> None:
        pts, dts = packet.pts, packet.dts
        if self.spliced and dts is not None:
            self._place(dts * track.scale, track)
        span = track.span
        if span is None:
            span = track.span = self.parts[track.part].setdefault(packet.stream_index, Reach(track.count))
        track.count += 1
        if not packet.size:
            return
        track.filled += 1
        when = pts if dts is None else dts
        if when is None:
            return
        length = (packet.duration or 0) * track.scale or track.usual
        shown = when * track.scale if pts is None else pts * track.scale
        track.last = when * track.scale
        track.end = track.last + length
        if span.begin is None:
            span.begin, span.end = shown, shown + length
        elif shown < span.begin:
            span.begin = shown
        if shown + length > span.end:
            span.end = shown + length

    def _place(self, time: int, track: _Track) -> None:
        """Move a stream on to the next part where its times start anew, or those of others did."""
        back, before = self.clock // BACK, track.part
        follows = track.last is not None and time >= track.last and time - track.end <= back
        if track.last is not None and time < track.last - back:
            track.part += 1
        elif track.part < len(self.parts) - 1 and not (follows and track.flows):
            track.part = len(self.parts) - 1
        if track.part == len(self.parts):
            self.parts.append({})
        if track.part != before:
            track.span = None

    def _look(self, packet: Packet[Any], track: _Track) -> None:
        """What only the pictures tell."""
        pts = packet.pts
        if pts is not None:
            self.latest = pts if self.latest is None else max(self.latest, pts)
        if not packet.is_discard:
            self._times.append(NO_TIME if pts is None else pts)
            if self.spliced:
                self.pieces[track.part].add(pts, packet.dts, packet.is_keyframe)
        elif pts is not None:
            self.hidden += 1
            self.latest_hidden = max(self.latest_hidden, pts * track.scale)
        self.captions.look(packet)


_NEVER_EMPTY = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "prores", "dnxhd", "ffv1"})
"""Codecs whose pictures all have bytes; others leave a packet empty to show the last picture for longer."""


def survey_file(source: Input, video_of: Callable[[InputContainer], VideoStream], times: array[int]) -> PacketSurvey:
    """Read all packets of a file, or its index where that tells of them; also what of the file is cut off.

    video_of: gives the stream that will be decoded. times: gets the pts of its packets that are shown, NO_TIME where there is
    none.
    """
    with ExitStack() as stack:
        with heard(av.logging.ERROR) as messages:
            container = stack.enter_context(source.open())
        said, file = complaints_of(container, messages), stack.enter_context(source.read())
        tables, video = sample_tables(file), video_of(container)
        missing = missing_bytes(file, video, tables)
        lost = tables[video.id].lost if video.id in tables and codec_name(video) in _NEVER_EMPTY else 0
        try:
            found = survey(container, video, times, file, {} if missing else tables)
        except ContradictionError:
            with source.open() as again:
                found = survey(again, video_of(again), times, file)
    faults = found.faults or tuple((NO_TIME, f"FFmpeg says: {text}") for text in said[:1])
    if lost:
        faults = (*faults, (None, _NOT_THERE.format(lost)))
    if not missing:
        return replace(found, faults=faults)
    cut = (None, f"{missing} bytes are missing, it was cut short")
    return replace(found, faults=(*(fault for fault in faults if fault[0] is not None), cut))


def survey(
    container: InputContainer,
    video: VideoStream,
    times: array[int],
    file: BinaryIO,
    tables: Mapping[int, SampleTable] | None = None,
) -> PacketSurvey:
    """Read a container to its end; its stream is the one that will be decoded.

    times: gets the pts of its packets that are shown, NO_TIME where there is none. file: its bytes. tables: of its tracks,
    where all bytes that they name are there; what they tell is not read.

    Raises: ContradictionError where they are not true.
    """
    reader = _Reader(container, video, times)
    held = fragment_bytes(file)
    reader.take_index(tables if tables and not held else {})
    reader.read()
    faults, clock = reader.faults, reader.clock
    if container.duration is not None and reader.latest_hidden > (container.duration + FAR * av.time_base) * (
        clock // av.time_base
    ):
        faults.append((None, f"a picture would be shown at {reader.latest_hidden / clock:.0f} s only"))
    splices = tuple(splices_of(reader.parts, clock))
    for part, piece in reader.pieces.items():
        moved = round(splices[part - 1].offset / (video.time_base or 1)) if part else 0
        faults += [
            (time + moved, f"{lost} picture{'s are' if lost > 1 else ' is'} missing there") for time, lost in piece.holes()
        ]
    ends = {index: Fraction(span.end, clock) for part in reader.parts for index, span in part.items() if span.begin is not None}
    if missing := missing_end(container, video, ends, Fraction(reader.frame, clock)):
        faults.append((reader.latest, missing))
    if container.format.name == "avi" and video.index in reader.tracks:
        unread = sum(entry.size > 0 for entry in video.index_entries) - reader.tracks[video.index].filled
        faults += [(reader.latest, _NOT_THERE.format(unread))] * (unread > 0)
    if (unclaimed := held - reader.bytes) > 0:
        faults.append((reader.latest, f"{unclaimed} bytes of its fragments belong to no picture and no sound"))
    faults += [
        (latest, f"what lies at byte {place} is nothing that Matroska has, so it was passed over")
        for latest, place in reader.unread.strange(file, reader.latest)
    ]
    start = Fraction(container.start_time or 0, av.time_base)
    begins = [
        Fraction(span.begin, clock)
        for index, span in reader.parts[0].items()
        if span.begin is not None and reader.tracks[index].flows
    ]
    begin = max(min(begins, default=start), Fraction(0)) if start > 0 else Fraction(0)
    packets = {index: track.filled for index, track in reader.tracks.items()}
    return PacketSurvey(begin, start, packets, splices, tuple(faults), reader.captions.found, reader.hidden)


def _demuxed(container: InputContainer) -> Iterator[Packet[Any]]:
    try:
        yield from packets_of(container)
    except (av.FFmpegError, OSError):
        return  # Whoever decodes says what is wrong there.
