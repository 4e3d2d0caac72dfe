"""All packets of a file, read once before its first frame: where times start anew, where it is broken, where it should end."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from math import lcm
from operator import lt
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from sr_deploy.video.log import heard

PROMISE_LENGTH = {"matroska,webm", "avi", "asf", "flv", "mov,mp4,m4a,3gp,3g2,mj2", "nut"}
"""Containers whose header says how long they are; of others FFmpeg guesses it from the last packet, or the size."""

WITH_INDEX = {"mov,mp4,m4a,3gp,3g2,mj2"}
"""Containers whose header may tell of every packet where it is, and when."""

CAPTIONS = re.compile(rb"(\xb5\0\x31|\0\0\x01\xb2)GA94")
"""How closed captions begin in the data of a picture (ATSC A/53): in H.264 and HEVC, and in MPEG-2."""

CUT = re.compile("ended prematurely")
"""What FFmpeg says of a file that was cut; whether that one promised more is seen elsewhere."""

DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
"""Of a stream, as Matroska's tags have it."""

FAR = 10
"""Seconds behind the end at which no edit hides a picture."""

BACK = 10
"""What part of a second times may go back within a stream before they count as started anew, as in ffmpeg."""

ALL_LOOKED_AT = 1000
"""Pictures that are all searched for captions; behind them, keyframes are."""

NO_TIME = -(1 << 63)
"""In place of a pts."""


@dataclass(frozen=True)
class Splice:
    """Where times start anew. first: of each stream the first packet behind it, counted from 0; offset: seconds to add."""

    first: dict[int, int]
    offset: Fraction


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


class Continuous:
    """The packets of a container with times that go on where they started anew, those of each stream in the same way."""

    def __init__(self, container: InputContainer, splices: tuple[Splice, ...]) -> None:
        self._container = container
        self._splices = splices

    def demux(self, *streams: Stream) -> Iterator[Packet[Any]]:
        """All packets, or those of some streams; from the beginning of the file."""
        seen = Counter[int]()
        for packet in self._container.demux(*streams):
            index = packet.stream_index
            offset = next((s.offset for s in reversed(self._splices) if seen[index] >= s.first.get(index, 1 << 62)), None)
            seen[index] += 1
            if offset is not None:
                ticks = round(offset / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet


@dataclass(slots=True)
class _Reach:
    """A stream between two places where times start anew: its first packet, when it begins and ends; in ticks of the clock."""

    first: int
    begin: int | None = None
    end: int = 0


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
    span: _Reach | None = None


class _Reader:
    """Goes through all packets; times are whole ticks of one clock that holds those of every stream."""

    def __init__(self, container: InputContainer, video: VideoStream, times: array[int]) -> None:
        self._container, self._video, self._times = container, video, times
        bases = [stream.time_base for stream in container.streams if stream.time_base]
        self.clock = lcm(*(base.denominator for base in bases), av.time_base)
        self.frame = round(self.clock / (video.average_rate or Fraction(25)))
        self.spliced = Flags.ts_discont in Flags(container.format.flags)
        self.tracks: dict[int, _Track] = {}
        self.parts: list[dict[int, _Reach]] = [{}]
        self.faults: list[tuple[int | None, str]] = []
        self.keys: set[int] = set()
        self.latest: int | None = None
        self.hidden = 0
        self.latest_hidden = 0
        self.captions = False

    def take_index(self) -> None:
        """Leave out the sound of an MP4, whose packets the index tells: so it takes no longer than the pictures."""
        for stream in self._container.streams.audio if self._container.format.name in WITH_INDEX else ():
            entries, base = stream.index_entries, stream.time_base
            if base is None or not len(entries) == stream.frames > 1:
                continue
            stream.discard = Discard.all
            track = self._new_track(stream)
            track.filled = len(entries)
            last, before = entries[-1].timestamp, entries[-2].timestamp
            reach = _Reach(0, entries[0].timestamp * track.scale, (2 * last - before) * track.scale)
            self.parts[0][stream.index] = reach

    def read(self) -> None:
        with heard(av.logging.ERROR) as messages:
            for packet in _demuxed(self._container):
                track = self.tracks.get(packet.stream_index) or self._new_track(packet.stream)
                self._count(packet, track)
                if messages:
                    complaints = [text.strip() for _, name, text in messages if name == self._container.format.name]
                    messages.clear()
                    if complaints and (packet.size or not CUT.search(complaints[0])):
                        self.faults.append((self.latest, f"FFmpeg says: {complaints[0]}"))
                if packet.stream_index == self._video.index and packet.size:
                    self._look(packet, track)

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
            span = track.span = self.parts[track.part].setdefault(packet.stream_index, _Reach(track.count))
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
            if self.spliced and packet.is_keyframe:
                self.keys.add(pts)
        if not packet.is_discard:
            self._times.append(NO_TIME if pts is None else pts)
        elif pts is not None:
            self.hidden += 1
            self.latest_hidden = max(self.latest_hidden, pts * track.scale)
        if not self.captions and (track.filled <= ALL_LOOKED_AT or packet.is_keyframe):
            self.captions = CAPTIONS.search(bytes(packet)) is not None


def survey(
    container: InputContainer, video: VideoStream, times: array[int] | None = None, *, whole: bool = False
) -> PacketSurvey:
    """Read a container to its end; its stream is the one that will be decoded.

    times: gets the pts of its packets that are shown, NO_TIME where there is none. whole: all bytes that its index names are
    there.
    """
    times = array("q") if times is None else times
    reader = _Reader(container, video, times)
    if whole:
        reader.take_index()
    reader.read()
    faults, clock = reader.faults, reader.clock
    if container.duration is not None and reader.latest_hidden > (container.duration + FAR * av.time_base) * (
        clock // av.time_base
    ):
        faults.append((None, f"a picture would be shown at {reader.latest_hidden / clock:.0f} s only"))
    if reader.spliced and len(reader.parts) == 1:
        faults += [(pts, f"{lost} pictures are missing there") for pts, lost in _holes(times, reader.keys)]
    ends = {index: Fraction(span.end, clock) for part in reader.parts for index, span in part.items() if span.begin is not None}
    if missing := _missing_end(container, video, ends, Fraction(reader.frame, clock)):
        faults.append((reader.latest, missing))
    start = Fraction(container.start_time or 0, av.time_base)
    begins = [
        Fraction(span.begin, clock)
        for index, span in reader.parts[0].items()
        if span.begin is not None and reader.tracks[index].flows
    ]
    begin = max(min(begins, default=start), Fraction(0)) if start > 0 else Fraction(0)
    packets = {index: track.filled for index, track in reader.tracks.items()}
    splices = tuple(_splices(reader.parts, clock))
    return PacketSurvey(begin, start, packets, splices, tuple(faults), reader.captions, reader.hidden)


def shown_times(times: array[int]) -> list[int]:
    """The times that `survey` saw, sorted; none where a picture has no time, or two have the same."""
    known = sorted(times)
    return known if known and known[0] != NO_TIME and all(map(lt, known, islice(known, 1, None))) else []


def _holes(times: array[int], keys: set[int]) -> list[tuple[int, int]]:
    """Where pictures are missing whose neighbors all follow each other alike: pts of the one before, and how many.

    keys: pts of keyframes; before one a recording may have paused.
    """
    known = shown_times(times)
    steps = [(earlier, later - earlier, later in keys) for earlier, later in pairwise(known)]
    usual, count = Counter(step for _, step, _ in steps).most_common(1)[0] if steps else (0, 0)
    if not usual or any(step % usual for _, step, _ in steps):
        return []
    holes = [(pts, step // usual - 1) for pts, step, key in steps if step != usual and not key]
    return holes if len(steps) - count <= max(1, count // 8) else []


def _demuxed(container: InputContainer) -> Iterator[Packet[Any]]:
    try:
        yield from container.demux()
    except (av.FFmpegError, OSError):
        return  # Whoever decodes says what is wrong there.


def _splices(parts: list[dict[int, _Reach]], clock: int) -> Iterator[Splice]:
    """Each part begins when the last stream of the one before has ended."""
    offset = 0
    for before, part in pairwise(parts):
        gaps = (before[index].end - (part[index].begin or 0) for index in _timed(before) & _timed(part))
        offset += max(gaps, default=0)
        yield Splice({index: span.first for index, span in part.items()}, Fraction(offset, clock))


def _timed(part: dict[int, _Reach]) -> set[int]:
    return {index for index, span in part.items() if span.begin is not None}


def _missing_end(container: InputContainer, video: VideoStream, ends: dict[int, Fraction], frame: Fraction) -> str:
    """What a header promises and is not there, in words: a later end than that of all packets, or of the video's by its tag."""
    if container.duration is None or container.format.name not in PROMISE_LENGTH or video.index not in ends:
        return ""
    counts_from_zero = container.format.name in ("matroska,webm", "asf", "flv")
    early = Fraction(0) if counts_from_zero else Fraction(container.start_time or 0, av.time_base)
    promised, last = Fraction(container.duration, av.time_base) + early, max(ends.values())
    if said := DURATION.fullmatch(video.metadata.get("DURATION", "")):
        hours, minutes, seconds = said.groups()
        promised, last = min(promised, int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)), ends[video.index]
    exact = container.format.name in ("matroska,webm", "avi")  # Others count a frame more at times.
    spare = Fraction(3, 4) if exact else Fraction(3, 2)
    if promised - last <= max(frame * spare, Fraction(1, 50)):
        return ""
    return f"its header says that it ends at {float(promised):.3f} s, but its last picture or sound ends at {float(last):.3f} s"
