"""Packets of a stream -> decoded frames, and no frame lost in silence.

With frame threads an error comes late, and frames that were decoded together with it are dropped. So decoding starts with all
threads and watches that every packet becomes a frame; at the first doubt it is done again from there, one packet after the
other, where an error stands for its own packet.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream


class DoubtError(Exception):
    """Decoding with all threads, or on a GPU, may have lost a frame; the message, where there is one, is for the user."""


class DamageError(Exception):
    """A packet cannot be decoded; pts: in ticks, None when it is not known."""

    def __init__(self, pts: int | None, reason: str) -> None:
        super().__init__(reason)
        self.pts = pts


def decode_fast(container: InputContainer, stream: VideoStream, after: int | None) -> Iterator[av.VideoFrame]:
    """Frames in presentation order, decoded by all threads; up to `after`, packets may give no frame, as they do after a seek.

    Raises: DoubtError.
    """
    stream.thread_type = "AUTO"
    waiting: set[int] = set()
    try:
        for packet in _packets(container, stream):
            if packet.pts is not None and not packet.is_discard and (after is None or packet.pts > after):
                waiting.add(packet.pts)
            for frame in stream.codec_context.decode(packet):
                waiting.discard(frame.pts)
                if frame.is_corrupt or frame.pts is None or any(pts < frame.pts for pts in waiting):
                    raise DoubtError
                yield frame
            if packet.is_corrupt:
                raise DoubtError
    except av.FFmpegError as exc:
        raise DoubtError from exc
    if waiting:
        raise DoubtError


def decode_carefully(
    container: InputContainer, stream: VideoStream, skipped: list[DamageError] | None
) -> Iterator[av.VideoFrame]:
    """Frames in presentation order. Damage is appended to `skipped`, or raised without it, after all frames before it.

    Frames flagged corrupt before the first sound one are no damage: so begins a recording between two keyframes.

    Raises: DamageError.
    """
    stream.thread_type = "SLICE"
    sound = False
    for packet in _readable(container, stream, skipped):
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError as exc:
            damage = DamageError(packet.pts, f"a packet is damaged ({exc.strerror})")
            if skipped is None:
                yield from _drained(stream, packet.pts)
            met(damage, skipped)
            continue
        for frame in frames:
            if frame.is_corrupt and sound:
                met(DamageError(frame.pts, "the data of a frame is damaged"), skipped)
            sound = sound or not frame.is_corrupt
            yield frame


def met(damage: DamageError, skipped: list[DamageError] | None) -> None:
    """Appends the damage to a list, or raises it without one."""
    if skipped is None:
        raise damage
    skipped.append(damage)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """All packets and the one that flushes; an empty packet that has a time is a frame left out, and would flush too early."""
    return (packet for packet in container.demux(stream) if packet.size or packet.dts is None)


def _readable(
    container: InputContainer, stream: VideoStream, skipped: list[DamageError] | None
) -> Iterator[Packet[VideoStream]]:
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
