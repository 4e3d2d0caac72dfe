"""The other streams of the source -> packets of the final file, cut and moved as the video is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from sr_deploy.video.input import Input
from sr_deploy.video.splices import Continuous
from sr_deploy.video.streams import Copied, StreamPlan, add_copy, converted, cover_of
from sr_deploy.video.survey import PacketSurvey


@dataclass(frozen=True)
class Cut:
    """The part of the source that is kept, in seconds; everything is moved by `origin`."""

    origin: Fraction
    begins: bool
    until: Fraction | None

    def keeps(self, packet: Packet[Any], base: Fraction) -> bool:
        if packet.pts is None:
            return True
        begin = packet.pts * base
        if self.until is not None and begin >= self.until:
            return False
        return not self.begins or begin >= self.origin or self._is_showing(packet, base)

    def _is_showing(self, packet: Packet[Any], base: Fraction) -> bool:
        """Whether it is a subtitle that began before the start and is still to be seen."""
        return packet.stream.type == "subtitle" and ((packet.pts or 0) + (packet.duration or 0)) * base > self.origin

    def move(self, packet: Packet[Any], base: Fraction) -> None:
        shift = round(self.origin / base)
        early = max(shift - packet.pts, 0) if self.begins and packet.pts is not None else 0
        if early and packet.duration:
            packet.duration -= early
        packet.pts = None if packet.pts is None else packet.pts - shift + early
        packet.dts = None if packet.dts is None else packet.dts - shift + early

    def chapters(self, opened: InputContainer) -> list[Any]:
        kept = []
        for chapter in opened.chapters():
            base = cast(Fraction, chapter["time_base"])
            shift = round(self.origin / base)
            end = chapter["end"] if self.until is None else min(chapter["end"], round(self.until / base))
            begin = max(chapter["start"] - shift, 0)
            if end - shift > begin or (end - shift == begin and not self.begins):
                kept.append({**chapter, "start": begin, "end": end - shift})
        return kept


class Copies:
    """The packets of all other streams, in the order of the source."""

    def __init__(
        self,
        opened: InputContainer | None,
        output: OutputContainer,
        plan: StreamPlan,
        cut: Cut,
        covers: dict[int, bytes],
        survey: PacketSurvey,
        trial: bool = False,
    ) -> None:
        """trial: take the first packet of each stream only."""
        self._opened, self._cut, self._survey, self._trial = opened, cut, survey, trial
        self._last: dict[int, int] = {}
        self.counts: dict[int, int] = {}
        self.notes: list[str] = []
        self.names: dict[int, str] = {}
        self.repaired = 0
        self._streams: dict[int, tuple[Copied, Stream]] = {}
        for copied in plan.copied if opened is not None else ():
            stream = cast(InputContainer, opened).streams[copied.index]
            added = add_copy(output, stream, copied, covers.get(copied.index, b""))
            if added.type != "attachment":
                self.counts[copied.index] = 0
                self._streams[copied.index] = copied, added
                self.names[added.index] = str(copied)

    def packets(self) -> Iterator[Packet[Any]]:
        if self._opened is None or not self._streams:
            return
        for stream in self._opened.streams:
            if stream.index not in self._streams:
                stream.discard = Discard.all
        try:
            for packet in Continuous(self._opened, self._survey.splices).demux():
                yield from self._copy(packet)
                if self._trial and all(self.counts[i] or not self._survey.packets.get(i, 1) for i in self._streams):
                    return
        except (av.error.FFmpegError, OSError) as exc:
            self.notes.append(f"the source is broken ({getattr(exc, 'strerror', None) or exc}): its other streams end there")
        if self.repaired:
            self.notes.append(f"{self.repaired} packets of other streams were moved: their times of decoding did not rise")

    def _copy(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        if not packet.size or packet.stream_index not in self._streams:
            return
        base = packet.time_base
        if self._trial and self.counts[packet.stream_index]:
            return
        if not self._cut.keeps(packet, base):
            return
        copied, target = self._streams[packet.stream_index]
        moved = converted(packet, copied)
        if moved is None:
            return
        self._cut.move(moved, base)
        self._set_later(moved, copied.index)
        self.counts[copied.index] += 1
        moved.stream = target
        yield moved

    def _set_later(self, packet: Packet[Any], index: int) -> None:
        """Times of decoding that do not rise are moved on by a tick, as ffmpeg does: no container takes them."""
        last = self._last.get(index)
        if packet.dts is not None and last is not None and packet.dts < last:
            packet.dts = last + 1
            packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
            self.repaired += 1
        if packet.dts is not None:
            self._last[index] = packet.dts


def covers_of(source: Input | None, plan: StreamPlan) -> dict[int, bytes]:
    """The pictures that become attachments, by the index of their stream: attachments are written with the header."""
    found = {}
    for copied in plan.copied if source is not None else ():
        if copied.convert == "attachment":
            with cast(Input, source).open() as opened:
                found[copied.index] = cover_of(opened, copied.index)
    return found
