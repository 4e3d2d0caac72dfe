"""The sample tables of an MP4: where its packets end in the file, and how much later each is shown than decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.video.boxes import file_boxes, head_of


@dataclass(frozen=True)
class SampleTable:
    """What a track says of its packets.

    count: how many there are, and lost: how many of them without a byte or a place in the file. end: of the last byte that one
    takes in the file. delays: by how many ticks each is shown after it is decoded, but for a constant; int64.
    """

    count: int
    lost: int
    end: int
    delays: Array


def sample_tables(file: BinaryIO) -> dict[int, SampleTable]:
    """The tables of all tracks by their ids; none where the file has no such index, or one that contradicts itself.

    Source: ISO/IEC 14496-12, section 8.
    """
    try:
        tracks = [dict(_boxes(body)) for kind, body in _boxes(_movie(file)) if kind == b"trak"]
        return dict(_table(track) for track in tracks)
    except (KeyError, ValueError, IndexError):
        return {}


def _movie(file: BinaryIO) -> memoryview:
    return next((memoryview(file.read(size)) for kind, size in file_boxes(file) if kind == b"moov"), memoryview(b""))


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    while len(data) >= 8:
        size, kind, read = head_of(data)
        size = size or len(data)
        if not read <= size <= len(data):
            raise ValueError("a box ends outside of the one around it")
        yield kind, data[read:size]
        data = data[size:]


def _table(track: dict[bytes, memoryview]) -> tuple[int, SampleTable]:
    header = track[b"tkhd"]
    place = 20 if header[0] else 12
    tables = dict(_boxes(track[b"mdia"]))
    for kind in (b"minf", b"stbl"):
        tables = dict(_boxes(tables[kind]))
    same, count = (int(value) for value in _numbers(tables[b"stsz"], ">u4", 2))
    sizes = None if same else _numbers(tables[b"stsz"][8:], ">u4", count)
    end, held = _end(tables, count, same, sizes)
    lost = count - held + (0 if sizes is None else int((sizes[:held] == 0).sum()))
    delays = _delays(tables[b"ctts"], count) if b"ctts" in tables else np.zeros(count, np.int64)
    return int.from_bytes(header[place : place + 4], "big"), SampleTable(count, lost, end, delays)


def _numbers(body: memoryview, kind: str, count: int) -> Array:
    """Numbers behind version and flags; ValueError where there are fewer."""
    return np.frombuffer(body, kind, count, offset=4).astype(np.int64)


def _entries(body: memoryview, columns: int) -> Array:
    """Rows of a table that begins with their number; (N, columns) int64."""
    rows = int(_numbers(body, ">u4", 1)[0])
    return _numbers(body[4:], ">u4", rows * columns).reshape(rows, columns)


def _end(tables: dict[bytes, memoryview], count: int, same: int, sizes: Array | None) -> tuple[int, int]:
    """Of the last byte of all samples, and how many the chunks hold."""
    wide = b"co64" in tables
    body = tables[b"co64" if wide else b"stco"]
    offsets = _numbers(body[4:], ">i8" if wide else ">u4", int(_numbers(body, ">u4", 1)[0]))
    runs = _entries(tables[b"stsc"], 3)
    lengths = np.diff(runs[:, 0] - 1, append=len(offsets))
    if not count or (lengths < 0).any() or int(lengths.sum()) != len(offsets):
        raise ValueError("chunks without samples, or samples without chunks")
    in_chunk = np.repeat(runs[:, 1], lengths)
    until = np.cumsum(in_chunk)
    if int(until[-1]) > count:
        raise ValueError("fewer samples than the chunks hold")
    taken = until * same if sizes is None else np.cumsum(sizes)[until - 1]
    return int((offsets + np.diff(taken, prepend=0)).max()), int(until[-1])


def _delays(body: memoryview, count: int) -> Array:
    rows = _entries(body, 2)
    if int(rows[:, 0].sum()) != count:
        raise ValueError("times of more or fewer samples than there are")
    delays: Array = np.repeat(rows[:, 1].astype(np.int32).astype(np.int64), rows[:, 0])
    return delays
