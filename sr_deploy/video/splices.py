"""Times that start anew within a file, and packets whose times go on there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from sr_deploy.video.packets import packets_of


@dataclass(frozen=True)
class Splice:
    """Where times start anew. first: of each stream the first packet behind it, counted from 0; offset: seconds to add."""

    first: dict[int, int]
    offset: Fraction


@dataclass(slots=True)
class Reach:
    """A stream between two places where times start anew: its first packet, when it begins and ends; in ticks of the clock."""

    first: int
    begin: int | None = None
    end: int = 0


class Continuous:
    """The packets of a container with times that go on where they started anew, those of each stream in the same way."""

    def __init__(self, container: InputContainer, splices: tuple[Splice, ...]) -> None:
        self._container = container
        self._splices = splices

    def demux(self, *streams: Stream) -> Iterator[Packet[Any]]:
        """All packets, or those of some streams; from the beginning of the file."""
        seen = Counter[int]()
        for packet in packets_of(self._container, *streams):
            index = packet.stream_index
            offset = next((s.offset for s in reversed(self._splices) if seen[index] >= s.first.get(index, 1 << 62)), None)
            seen[index] += 1
            if offset is not None:
                ticks = round(offset / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet


def splices_of(parts: list[dict[int, Reach]], clock: int) -> Iterator[Splice]:
    """Each part begins when the last stream of the one before has ended."""
    offset = 0
    for before, part in pairwise(parts):
        gaps = (before[index].end - (part[index].begin or 0) for index in _timed(before) & _timed(part))
        offset += max(gaps, default=0)
        yield Splice({index: span.first for index, span in part.items()}, Fraction(offset, clock))


def _timed(part: dict[int, Reach]) -> set[int]:
    return {index for index, span in part.items() if span.begin is not None}
