"""Packets of a container, whatever begins in its middle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from av.packet import Packet
from av.stream import Stream


class Packets(Protocol):
    """A container, or one whose times go on."""

    def demux(self, *streams: Stream) -> Iterator[Packet[Any]]: ...


def packets_of(container: Packets, *streams: Stream) -> Iterator[Packet[Any]]:
    """All packets, or those of some streams, but those of streams that begin midway: PyAV fails at each, and can go on."""
    while True:
        try:
            yield from container.demux(*streams)
        except IndexError:
            continue
        return
