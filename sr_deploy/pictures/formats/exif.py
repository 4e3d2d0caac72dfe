"""EXIF and XMP: orientation, picture size, and the tag trees that EXIF shares with TIFF."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from sr_deploy.pictures.formats import ContainerError

Data = bytes | bytearray | memoryview

ORIENTATION = 274
EXIF_IFD = 34665
GPS_IFD = 34853
_THUMBNAIL, _THUMBNAIL_BYTES = 513, 514
_SUB_IFDS = (EXIF_IFD, GPS_IFD, 40965)
# Description, maker, model, resolution, software, date, artist, host, copyright: what is not about how pixels are stored.
_DESCRIPTIVE = frozenset({269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD})
_TYPE_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SWAP_UNIT = {**_TYPE_SIZE, 5: 4, 10: 4}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])")


@dataclass(frozen=True)
class IfdEntry:
    """One tag of an IFD; `position` is where its value lies in the data."""

    tag: int
    type: int
    count: int
    position: int

    @property
    def size(self) -> int:
        return self.count * _TYPE_SIZE.get(self.type, 1)


@dataclass(frozen=True)
class Field:
    """One tag to write: little-endian bytes, or the fields of a sub-IFD."""

    tag: int
    type: int
    count: int
    raw: bytes
    children: tuple[Field, ...] = field(default=())


def byte_order(data: Data) -> str:
    """'<' or '>' of a TIFF header. Raises: ContainerError when it is none."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise ContainerError("the TIFF header has no byte order")
    return order


def read_ifd(
    data: Data, offset: int, order: str, *, big: bool = False, once: Collection[int] = ()
) -> tuple[dict[int, IfdEntry], int]:
    """The entries of the IFD at `offset`, and the offset of the next IFD (0 for none).

    Raises: ContainerError when a part of it lies outside of the data, or a tag of `once` stands there twice.
    """
    count_format, entry_format, offset_format, inline = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    entries: dict[int, IfdEntry] = {}
    if offset >= len(data):
        raise ContainerError("a tag directory lies outside of the file")
    try:
        (count,) = struct.unpack_from(order + count_format, data, offset)
        position = offset + struct.calcsize(order + count_format)
        head = struct.calcsize(order + entry_format)
        if position + count * (head + inline) > len(data):
            raise ContainerError("a tag directory lies outside of the file")
        for _ in range(count):
            tag, kind, length = struct.unpack_from(order + entry_format, data, position)
            place = position + head
            size = length * _TYPE_SIZE.get(kind, 1)
            if size > inline:
                (place,) = struct.unpack_from(order + offset_format, data, place)
            if place + size > len(data):
                raise ContainerError(f"the value of tag {tag} lies outside of the file")
            if tag in entries and tag in once:
                raise ContainerError(f"tag {tag} is there twice")
            entries[tag] = IfdEntry(tag, kind, length, place)
            position += head + inline
        (following,) = struct.unpack_from(order + offset_format, data, position) if position < len(data) else (0,)
    except struct.error as exc:
        raise ContainerError("a tag directory lies outside of the file") from exc
    return entries, following


def integers(data: Data, entry: IfdEntry | None, order: str) -> list[int]:
    """The values of an entry of an unsigned integer type, empty for others and for None."""
    if entry is None or entry.type not in _UNSIGNED:
        return []
    values: list[int] = np.frombuffer(data, order + _UNSIGNED[entry.type], entry.count, entry.position).tolist()
    return values


def exif_orientation(exif: bytes | None) -> int | None:
    """The orientation 1..8 in a block of EXIF, None when it says none or is damaged."""
    if not exif:
        return None
    try:
        order = byte_order(exif)
        entries, _ = read_ifd(exif, struct.unpack_from(order + "I", exif, 4)[0], order)
    except (ContainerError, struct.error):
        return None
    values = integers(exif, entries.get(ORIENTATION), order)
    return values[0] if values and 1 <= values[0] <= 8 else None


def xmp_orientation(xmp: bytes | None) -> int | None:
    """The tiff:Orientation 1..8 in a packet of XMP, None when it says none."""
    found = _XMP_ORIENTATION.search(xmp) if xmp else None
    return int(found[2]) if found else None


def upright_exif(exif: bytes, size: tuple[int, int] | None = None, *, turned: bool = False) -> bytes:
    """The block with its orientation at 1 and, for `size` = (height, width), its picture size corrected, in place.

    Where the picture is `turned`, or the block says that it was not upright, its thumbnail is not either, and is left out.
    Everything else stays byte for byte; a damaged block is returned as it is.
    """
    patched = bytearray(exif)
    try:
        order = byte_order(exif)
        entries, following = read_ifd(exif, struct.unpack_from(order + "I", exif, 4)[0], order)
        new = {ORIENTATION: 1}
        if size is not None:
            new |= {256: size[1], 257: size[0], 40962: size[1], 40963: size[0]}
        _patch(patched, entries, new, order)
        if following and (turned or exif_orientation(exif) not in (None, 1)):
            _drop_thumbnail(patched, following, order)
        elif following:
            _patch(patched, read_ifd(exif, following, order)[0], {ORIENTATION: 1}, order)
        for offset in integers(exif, entries.get(EXIF_IFD), order):
            _patch(patched, read_ifd(exif, offset, order)[0], new, order)
    except (ContainerError, struct.error):
        pass
    return bytes(patched)


def _drop_thumbnail(data: bytearray, offset: int, order: str) -> None:
    """Take the IFD of the thumbnail out, and its pixels."""
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    struct.pack_into(order + "I", data, first + 2 + 12 * count, 0)
    entries, _ = read_ifd(data, offset, order)
    start, length = (integers(data, entries.get(tag), order) or [0] for tag in (_THUMBNAIL, _THUMBNAIL_BYTES))
    stop = min(start[0] + length[0], len(data))
    if not start[0] or start[0] < first + 2 + 12 * count:
        return
    data[start[0] : stop] = bytes(stop - start[0])
    if stop == len(data):
        del data[start[0] :]


def upright_xmp(xmp: bytes) -> bytes:
    """The packet with its tiff:Orientation at 1."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def _patch(data: bytearray, entries: dict[int, IfdEntry], new: dict[int, int], order: str) -> None:
    for tag, value in new.items():
        entry = entries.get(tag)
        if entry is not None and entry.count == 1 and entry.type in (3, 4) and value < 1 << 8 * entry.size:
            struct.pack_into(order + ("H" if entry.type == 3 else "I"), data, entry.position, value)


def set_integers(data: memoryview, entry: IfdEntry, order: str, value: int) -> None:
    """Overwrite every value of an entry of an unsigned integer type."""
    np.frombuffer(data, order + _UNSIGNED[entry.type], entry.count, entry.position)[:] = value


def collect(data: Data, entries: dict[int, IfdEntry], order: str) -> tuple[Field, ...]:
    """The entries as fields to write elsewhere, sub-IFDs included; damaged ones are left out."""
    fields = []
    for tag, entry in sorted(entries.items()):
        if tag in _SUB_IFDS:
            try:
                offset = integers(data, entry, order)[0]
                children = collect(data, read_ifd(data, offset, order)[0], order)
            except (ContainerError, IndexError, RecursionError):
                continue
            fields.append(Field(tag, 4, 1, b"", children))
        elif entry.type in _TYPE_SIZE and entry.type < 16:
            raw = bytes(data[entry.position : entry.position + entry.size])
            if order == ">":
                raw = np.frombuffer(raw, f"u{_SWAP_UNIT[entry.type]}").byteswap().tobytes()
            fields.append(Field(tag, entry.type, entry.count, raw))
    return tuple(fields)


def descriptive(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields that describe the picture and not how its pixels are stored."""
    return tuple(field for field in fields if field.tag in _DESCRIPTIVE)


def exif_fields(exif: bytes | None) -> tuple[Field, ...]:
    """The descriptive fields of a block of EXIF, empty when it is damaged."""
    if not exif:
        return ()
    try:
        order = byte_order(exif)
        entries, _ = read_ifd(exif, struct.unpack_from(order + "I", exif, 4)[0], order)
        return descriptive(collect(exif, entries, order))
    except (ContainerError, struct.error):
        return ()


def exif_block(fields: tuple[Field, ...]) -> bytes | None:
    """A block of EXIF that holds the fields, None for none."""
    return b"II*\0" + struct.pack("<I", 8) + pack_ifd(fields, 8) if fields else None


def pack_ifd(fields: tuple[Field, ...], offset: int) -> bytes:
    """One little-endian IFD for the place `offset`, its values and sub-IFDs behind it, no next IFD."""
    entries, values = bytearray(), bytearray()
    behind = offset + 2 + 12 * len(fields) + 4
    for item in sorted(fields, key=lambda item: item.tag):
        raw = item.raw
        if item.children:
            raw = struct.pack("<I", behind + len(values))
            values += pack_ifd(item.children, behind + len(values))
        elif len(raw) > 4:
            place = struct.pack("<I", behind + len(values))
            values += raw + b"\0" * (len(raw) % 2)
            raw = place
        entries += struct.pack("<HHI", item.tag, item.type, item.count) + raw.ljust(4, b"\0")
    return struct.pack("<H", len(fields)) + bytes(entries) + b"\0\0\0\0" + bytes(values)
