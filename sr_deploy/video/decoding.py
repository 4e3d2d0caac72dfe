"""Packets of a stream -> decoded frames, and no frame lost in silence.

With frame threads an error comes late, and frames that were decoded together with it are dropped. So decoding starts with all
threads and watches that every packet becomes a frame; at the first doubt it is done again from there, one packet after the
other, where an error stands for its own packet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sr_deploy.video.mpeg4 import Coded
from sr_deploy.video.packets import Packets, packets_of
from sr_deploy.video.promises import MP4

LEAD = 1
"""Seconds before the wanted time to seek to: open groups of pictures are whole by then, and the deinterlacer has neighbors."""

FIRST_PACKETS = 1000
"""Among these are all that come before the first keyframe."""

UNORDERED = {"gif", "apng", "webp_anim", "image2", "yuv4mpegpipe"}
"""Containers in which FFmpeg cannot start in the middle, or not exactly."""


_LARGEST_REPEAT = 19
"""Bytes of an MPEG-4 picture that is not coded, at most."""


class DoubtError(Exception):
    """Decoding with all threads, or on a GPU, may have lost a frame; the message, where there is one, is for the user."""


class DamageError(Exception):
    """A packet cannot be decoded; pts: in ticks, None when it is not known."""

    def __init__(self, pts: int | None, reason: str) -> None:
        super().__init__(reason)
        self.pts = pts


class Clock:
    """Gives every frame a pts that is later than the last one's; `repaired` counts where the file's own could not be used."""

    def __init__(self) -> None:
        self.repaired = 0
        self._last: int | None = None
        self._step = 1

    def stamp(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same frame with its pts set, in ticks of the stream.

        A missing pts is the time of decoding, or follows the last frame; one that is not later becomes one tick later.
        """
        told = frame.pts if frame.pts is not None else frame.dts
        if told is None:
            told = 0 if self._last is None else self._last + self._step
            self.repaired += 1
        if self._last is not None and told <= self._last:
            told = self._last + 1
            self.repaired += 1
        self._last = frame.pts = told
        self._step = max(1, frame.duration)
        return frame


_STRICT = ("matroska,webm", MP4, "ivf")
"""Containers that begin with a keyframe, and whose packets of VP9 hold hidden frames beside one that is shown."""


def is_untimed(stream: VideoStream) -> bool:
    """Whether its packets do not tell when they are shown: AVI and ASF do not, and FFmpeg's guess is wrong out of order."""
    return stream.container.format.name in ("avi", "asf") and stream.codec_context.name in ("h264", "hevc")


class _Awaited:
    """The times of packets whose frame has not come yet, and how many keyframes were sent up to each.

    Frames come in the order of their times, but for those behind a keyframe: times may overlap where films were joined.
    """

    def __init__(self, stream: VideoStream, after: int | None = None) -> None:
        self._stream = stream
        self._codec = stream.codec_context.name
        self._after = after
        self._waiting: dict[int, int] = {}
        self._hidden: list[int] = []
        self._opening: int | None = None
        """When the first keyframe of a strict container is shown."""
        self._untimed = 0
        self._keys = 0
        self._coded = Coded(stream.codec_context.extradata) if self._codec == "mpeg4" else None
        self._last: int | None = None
        self._spacing = 1 / ((stream.average_rate or 25) * (stream.time_base or 1))
        self._fields = False

    def sent(self, packet: Packet[VideoStream]) -> None:
        self._keys += packet.is_keyframe
        self._untimed += packet.pts is None
        if packet.pts is None or packet.is_discard or (self._after is not None and packet.pts <= self._after):
            return
        if self._keys == 1 and packet.is_keyframe and self._stream.container.format.name in _STRICT:
            self._opening = packet.pts
        if self._shows(packet):
            self._waiting[packet.pts] = self._keys
        elif self._coded is None:
            self._hidden.append(packet.pts)

    def forget(self, packet: Packet[VideoStream]) -> None:
        """Its frame is known to be lost."""
        self._untimed -= packet.pts is None
        self._waiting.pop(-1 if packet.pts is None else packet.pts, None)
        self._opening = None if packet.pts == self._opening else self._opening

    def came(self, frame: av.VideoFrame) -> list[int]:
        """The times of frames that are lost: they come before this one, and did not. A file may begin with some."""
        self._fields = self._fields or bool(frame.interlaced_frame)
        if frame.pts is None:
            self._untimed -= 1
            return []
        keys = self._waiting.pop(frame.pts, self._keys)
        before = sorted(pts for pts, sent in self._waiting.items() if pts < frame.pts and sent <= keys)
        for pts in before:
            del self._waiting[pts]
        last, self._last = self._last, frame.pts
        if last is None:
            return [self._opening] if self._opening is not None and self._opening < frame.pts else []
        return self._lost(before, frame.pts - last) + self._wrongly_hidden(last, frame.pts)

    def rest(self) -> Sequence[int | None]:
        """The times of those that never came."""
        if is_untimed(self._stream):
            return [None] * (0 if self._fields else self._untimed)
        last = self._last or 0
        wrongly_hidden = self._wrongly_hidden(last, last + 2 * self._spacing)
        return self._lost(sorted(self._waiting), max(self._waiting, default=0) - last + self._spacing) + wrongly_hidden

    def _wrongly_hidden(self, last: int, now: Fraction | float) -> list[int]:
        """The times of hidden frames in the middle of two that are shown twice as far apart as others: there, one was shown."""
        passed = [pts for pts in self._hidden if pts < now]
        self._hidden = [pts for pts in self._hidden if pts >= now]
        if abs(now - last - 2 * self._spacing) > self._spacing / 2:
            return []
        return [pts for pts in passed if min(pts - last, now - pts) > self._spacing / 2]

    def _shows(self, packet: Packet[VideoStream]) -> bool:
        if self._coded is None:
            return not _shows_nothing(self._stream, packet)
        if packet.is_keyframe:
            self._coded.meet(bytes(packet))
        return packet.size > _LARGEST_REPEAT or self._coded.shows(bytes(packet))

    def _lost(self, times: list[int], gap: Fraction | float) -> list[int]:
        """Without those of second fields, which have packets and no frames of their own."""
        return [] if self._fields and gap <= self._spacing * 3 / 2 else times


def _shows_nothing(stream: VideoStream, packet: Packet[VideoStream]) -> bool:
    """Whether a packet is only there for others to refer to: hidden frames of VP8, and of VP9 where they stand apart."""
    first, codec = bytes(packet)[0], stream.codec_context.name
    if codec in ("vp8", "libvpx"):
        return not first & 0x10
    if codec in ("vp9", "libvpx-vp9") and stream.container.format.name not in _STRICT:
        # Two bits of marker, two of profile, one more in profile 3; then: shows an earlier frame, kind, is shown.
        shift = 1 if first & 0x30 == 0x30 else 0
        return not first & (0x08 >> shift) and not first & (0x02 >> shift)
    return False


def decode_fast(container: Packets, stream: VideoStream, after: int | None) -> Iterator[av.VideoFrame]:
    """Frames in presentation order, decoded by all threads; up to `after`, packets may give no frame, as they do after a seek.

    Raises: DoubtError.
    """
    stream.thread_type = "AUTO"
    awaited = _Awaited(stream, after)
    try:
        for packet in _packets(container, stream):
            if packet.size:
                awaited.sent(packet)
            for frame in stream.codec_context.decode(packet):
                if frame.is_corrupt or frame.pts is None or awaited.came(frame):
                    raise DoubtError
                yield frame
            if packet.is_corrupt:
                raise DoubtError
    except av.FFmpegError as exc:
        raise DoubtError from exc
    finally:
        _come_to_rest(stream)
    if awaited.rest():
        raise DoubtError


def decode_carefully(container: Packets, stream: VideoStream, skipped: list[DamageError] | None) -> Iterator[av.VideoFrame]:
    """Frames in presentation order. Damage is appended to `skipped`, or raised without it, after all frames before it.

    Frames flagged corrupt before the first sound one are no damage: so begins a recording between two keyframes.

    Raises: DamageError.
    """
    stream.thread_type = "SLICE"
    sound = False
    awaited = _Awaited(stream)
    for packet in _readable(container, stream, skipped):
        if packet.size:
            awaited.sent(packet)
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError as exc:
            damage = DamageError(packet.pts, f"a packet is damaged ({exc.strerror})")
            if skipped is None:
                yield from _drained(stream, packet.pts)
            met(damage, skipped)
            awaited.forget(packet)
            continue
        for frame in frames:
            _require_none(awaited.came(frame), skipped)
            if frame.is_corrupt and sound:
                met(DamageError(frame.pts, "the data of a frame is damaged"), skipped)
            sound = sound or not frame.is_corrupt
            yield frame
    _require_none(awaited.rest(), skipped)


def _come_to_rest(stream: VideoStream) -> None:
    """Wait for the decoder's threads, so that nobody has to when it is freed.

    PyAV frees it with the GIL held. A thread that is still decoding then, and logs, waits for the GIL to tell Python, for ever.
    """
    stream.codec_context.flush_buffers()


def _require_none(lost: Sequence[int | None], skipped: list[DamageError] | None) -> None:
    if lost:
        frames = f"{len(lost)} frames are" if len(lost) > 1 else "a frame is"
        met(DamageError(lost[0], f"{frames} missing that the file has packets of"), skipped)


def met(damage: DamageError, skipped: list[DamageError] | None) -> None:
    """Appends the damage to a list, or raises it without one."""
    if skipped is None:
        raise damage
    skipped.append(damage)


def _packets(container: Packets, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """All packets and the one that flushes; an empty packet that has a time is a frame left out, and would flush too early."""
    untimed = is_untimed(stream)
    for packet in packets_of(container, stream):
        if untimed:
            packet.pts = None
        if packet.size or packet.dts is None:
            yield packet


def _readable(container: Packets, stream: VideoStream, skipped: list[DamageError] | None) -> Iterator[Packet[VideoStream]]:
    """The packets up to where the file cannot be read on."""
    try:
        yield from _packets(container, stream)
    except av.FFmpegError as exc:
        met(DamageError(None, f"the file cannot be read on ({exc.strerror})"), skipped)


def _drained(stream: VideoStream, before: int | None) -> list[av.VideoFrame]:
    """The frames that the decoder still holds and that are shown before that pts."""
    try:
        held = stream.codec_context.decode(None)
    except av.FFmpegError:
        return []
    return [frame for frame in held if before is None or (frame.pts is not None and frame.pts < before)]


def seek_before(container: InputContainer, video: VideoStream, pts: int) -> bool:
    """Whether the file could be positioned at a keyframe before that time."""
    try:
        container.seek(pts - math.ceil(LEAD / (video.time_base or Fraction(1, 1000))), stream=video)
    except (av.FFmpegError, OSError):
        return False
    return True
