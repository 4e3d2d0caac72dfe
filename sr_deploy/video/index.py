"""All packets of a video stream as the index of its MP4 tells them, so that only some have to be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.index import IndexEntries
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from sr_deploy.video.captions import ALL_LOOKED_AT, CaptionSearch
from sr_deploy.video.log import complaints_of, heard
from sr_deploy.video.packets import packets_of
from sr_deploy.video.sample_tables import SampleTable

_DISCARD, _KEY = 2, 1
_ENTRY = np.dtype([("dts", np.int64), ("size", np.int64), ("flags", np.int64)])

_PLACES, _COMPARED = 16, 100
"""At how many places packets are held against the index, and how many at each behind the first."""

_KEYFRAMES = 2000
"""So many keyframes are read; what has captions has them long before."""


class ContradictionError(Exception):
    """A packet is not as the index tells."""


class Index:
    """Packets by the index, in their order in the file.

    pts, until: when each begins and ends to be shown, in ticks; int64. hidden: whether an edit list leaves it out.
    """

    def __init__(self, entries: IndexEntries, table: SampleTable, duration: int | None) -> None:
        """duration: of the stream, in ticks. Raises: ContradictionError for entries that do not follow each other."""
        told = np.fromiter(((entry.timestamp, entry.size, entry.flags) for entry in entries), _ENTRY, table.count)
        self._dts = told["dts"]
        lengths = np.diff(self._dts, append=duration or 0)
        if (lengths[:-1] <= 0).any() or (told["size"] <= 0).any():
            raise ContradictionError
        self.pts = self._dts + table.delays
        self.until = self.pts + np.maximum(lengths, 0)
        self.hidden = told["flags"] & _DISCARD != 0
        self._keys = int((told["flags"] & _KEY).sum())

    def verify(self, container: InputContainer, stream: VideoStream, captions: CaptionSearch) -> None:
        """Read the first packets, some at places all over the file, and the first keyframes; look for captions in all of them.

        The container may be anywhere, and is left anywhere. Raises: ContradictionError for one packet that differs.
        """
        places = np.linspace(0, len(self._dts) - 1, _PLACES).astype(int)
        shift = None
        with heard(av.logging.ERROR) as messages:
            stream.discard = Discard.default
            for place in places:
                count = _COMPARED if place else ALL_LOOKED_AT
                for packet in islice(_packets(container, stream, int(self._dts[place])), count):
                    entry = self._entry(captions.look(packet))
                    late = (packet.pts or 0) - int(self.pts[entry])
                    shift = late if shift is None else shift
                    if late != shift or self.hidden[entry] != packet.is_discard or packet.pts is None:
                        raise ContradictionError
            stream.discard = Discard.nonkey
            packets = islice(_packets(container, stream, int(self._dts[0])), _KEYFRAMES)
            keyframes = [self._entry(captions.look(packet)) for packet in packets]
        if len(keyframes) != min(self._keys, _KEYFRAMES) or complaints_of(container, messages):
            raise ContradictionError
        self.pts += shift or 0
        self.until += shift or 0

    def _entry(self, packet: Packet[Any]) -> int:
        """The number of its entry."""
        place = len(self._dts) if packet.dts is None else int(np.searchsorted(self._dts, packet.dts))
        if place == len(self._dts) or self._dts[place] != packet.dts:
            raise ContradictionError
        return place


def index_of(stream: VideoStream, table: SampleTable | None) -> Index | None:
    """The index of a stream with many packets; None where it does not tell of every one. table: the same by the file itself."""
    if table is None or not ALL_LOOKED_AT < table.count == len(stream.index_entries):
        return None
    try:
        return Index(stream.index_entries, table, stream.duration)
    except ContradictionError:
        return None


def _packets(container: InputContainer, stream: VideoStream, dts: int) -> Iterator[Packet[Any]]:
    """Packets of a stream from the keyframe before that time on."""
    try:
        container.seek(dts, stream=stream)
        yield from (packet for packet in packets_of(container, stream) if packet.size)
    except (av.FFmpegError, OSError) as exc:
        raise ContradictionError from exc
