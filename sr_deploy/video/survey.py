"""All packets of a file, read once before its first frame: where times start anew, where it is broken, where it should end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
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

CAPTIONS = re.compile(rb"(\xb5\0\x31|\0\0\x01\xb2)GA94")
"""How closed captions begin in the data of a picture (ATSC A/53): in H.264 and HEVC, and in MPEG-2."""

DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
"""Of a stream, as Matroska's tags have it."""

FAR = 10
"""Seconds behind the end at which no edit hides a picture."""

BACK = Fraction(1, 10)
"""Seconds that times may go back within a stream before they count as started anew, as in ffmpeg."""


@dataclass(frozen=True)
class Splice:
    """Where times start anew. first: of each stream the first packet behind it, counted from 0; offset: seconds to add."""

    first: dict[int, int]
    offset: Fraction


@dataclass(frozen=True)
class PacketSurvey:
    """What all packets of a file tell; as it is by default, nothing.

    begin: when the first picture or sound is shown, in seconds; start: the same as FFmpeg takes it. packets: how many with
    content each stream has, by its index. faults: where something is missing, as pts of the last picture before it, and why.
    captions: whether its pictures carry closed captions.
    """

    begin: Fraction = Fraction(0)
    start: Fraction = Fraction(0)
    packets: dict[int, int] = field(default_factory=dict)
    splices: tuple[Splice, ...] = ()
    faults: tuple[tuple[int | None, str], ...] = ()
    captions: bool = False


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


@dataclass
class _Track:
    """Where a stream is: its part, its last time of decoding and the end of that packet, in seconds as they are."""

    part: int = 0
    last: Fraction | None = None
    end: Fraction = Fraction(0)
    count: int = 0


@dataclass
class _Stretch:
    """What lies between two places where times start anew: when its streams begin and end."""

    first: dict[int, int] = field(default_factory=dict)
    begins: dict[int, Fraction] = field(default_factory=dict)
    ends: dict[int, Fraction] = field(default_factory=dict)


def survey(container: InputContainer, video: VideoStream) -> PacketSurvey:
    """Read a container to its end; its stream is the one that will be decoded."""
    start = Fraction(container.start_time or 0, av.time_base)
    spliced = Flags.ts_discont in Flags(container.format.flags)
    tracks = {stream.index: _Track() for stream in container.streams}
    parts, packets, faults = [_Stretch()], Counter[int](), list[tuple[int | None, str]]()
    latest: int | None = None
    shown: list[tuple[int | None, bool]] = []
    hidden = Fraction(0)
    captions = False
    frame = 1 / (video.average_rate or Fraction(25))
    with heard(av.logging.ERROR) as messages:
        for packet in _demuxed(container):
            track = tracks.setdefault(packet.stream_index, _Track())
            if spliced:
                _place(packet, track, parts)
            _count(packet, track, parts[track.part], frame)
            packets[packet.stream_index] += bool(packet.size)
            complaints = [text.strip() for _, name, text in messages if name == container.format.name]
            messages.clear()
            if complaints and packet.size:
                faults.append((latest, f"FFmpeg says: {complaints[0]}"))
            if packet.stream_index == video.index and packet.size:
                latest = max(latest or packet.pts, packet.pts) if packet.pts is not None else latest
                shown.append((packet.pts, packet.is_keyframe))
                hidden = max(hidden, packet.pts * packet.time_base) if packet.is_discard and packet.pts is not None else hidden
                captions = captions or CAPTIONS.search(bytes(packet)) is not None
    if container.duration is not None and hidden > Fraction(container.duration, av.time_base) + FAR:
        faults.append((None, f"a picture would be shown at {float(hidden):.0f} s only"))
    if spliced and len(parts) == 1:
        faults += [(pts, f"{lost} pictures are missing there") for pts, lost in _holes(shown)]
    ends = {index: end for part in parts for index, end in part.ends.items()}
    if missing := _missing_end(container, video, ends, frame):
        faults.append((latest, missing))
    begins = [time for index, time in parts[0].begins.items() if container.streams[index].type in ("video", "audio")]
    begin = max(min(begins, default=start), Fraction(0)) if start > 0 else Fraction(0)
    return PacketSurvey(begin, start, dict(packets), tuple(_splices(parts)), tuple(faults), captions)


def _holes(pictures: list[tuple[int | None, bool]]) -> list[tuple[int, int]]:
    """Where pictures are missing whose neighbors all follow each other alike: pts of the one before, and how many.

    pictures: pts, and whether it is a keyframe: before one a recording may have paused.
    """
    known = sorted((pts, key) for pts, key in pictures if pts is not None)
    steps = [(earlier, later - earlier, key) for (earlier, _), (later, key) in pairwise(known)]
    usual, count = Counter(step for _, step, _ in steps).most_common(1)[0] if steps else (0, 0)
    if not usual or len(known) < len(pictures) or any(step % usual for _, step, _ in steps):
        return []
    holes = [(pts, step // usual - 1) for pts, step, key in steps if step != usual and not key]
    return holes if len(steps) - count <= max(1, count // 8) else []


def times_of_packets(container: InputContainer, video: VideoStream) -> list[int]:
    """pts of the packets of a stream that are shown, sorted; none where one has no time, or two have the same."""
    for other in container.streams:
        other.discard = other.discard if other.index == video.index else Discard.all
    found = [packet.pts for packet in container.demux(video) if packet.size and not packet.is_discard]
    times = sorted(pts for pts in found if pts is not None)
    return times if len(set(times)) == len(found) else []


def _demuxed(container: InputContainer) -> Iterator[Packet[Any]]:
    try:
        yield from container.demux()
    except (av.FFmpegError, OSError):
        return  # Whoever decodes says what is wrong there.


def _place(packet: Packet[Any], track: _Track, parts: list[_Stretch]) -> None:
    """Move the stream of a packet on to the next part where its times start anew, or those of others did."""
    if packet.dts is None:
        return
    time = packet.dts * packet.time_base
    follows = track.last is not None and time - track.last >= 0 and time - track.end <= BACK
    if track.last is not None and time < track.last - BACK:
        track.part += 1
    elif track.part < len(parts) - 1 and not (follows and packet.stream.type in ("video", "audio")):
        track.part = len(parts) - 1
    if track.part == len(parts):
        parts.append(_Stretch())


def _count(packet: Packet[Any], track: _Track, part: _Stretch, frame: Fraction) -> None:
    index = packet.stream_index
    part.first.setdefault(index, track.count)
    track.count += 1
    when = packet.pts if packet.dts is None else packet.dts
    if when is None or not packet.size:
        return
    time, length = when * packet.time_base, (packet.duration or 0) * packet.time_base
    length = length or (frame if packet.stream.type == "video" else length)
    shown = time if packet.pts is None else packet.pts * packet.time_base
    track.last, track.end = time, time + length
    part.begins[index] = min(part.begins.get(index, shown), shown)
    part.ends[index] = max(part.ends.get(index, shown), shown + length)


def _splices(parts: list[_Stretch]) -> Iterator[Splice]:
    """Each part begins when the last stream of the one before has ended."""
    offset = Fraction(0)
    for before, part in pairwise(parts):
        shared = before.ends.keys() & part.begins.keys()
        offset += max((before.ends[index] - part.begins[index] for index in shared), default=Fraction(0))
        yield Splice(part.first, offset)


def _missing_end(container: InputContainer, video: VideoStream, ends: dict[int, Fraction], frame: Fraction) -> str:
    """What a header promises and is not there, in words: a later end than that of all packets, or of the video's by its tag."""
    if container.duration is None or container.format.name not in PROMISE_LENGTH or video.index not in ends:
        return ""
    counts_from_zero = container.format.name in ("matroska,webm", "asf")
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
