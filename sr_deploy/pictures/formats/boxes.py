"""AVIF and JPEG 2000: walks over their boxes.

Source: ISO/IEC 14496-12 and 23008-12 (boxes, items and properties of HEIF), ISO/IEC 15444-1 annex I (JP2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sr_deploy.pictures.formats import ContainerError, Header, colorimetry, cut_off

# (quarter turns counterclockwise, mirror axis) -> the same as an EXIF orientation; axis 0 swaps top and bottom.
_ORIENTATION = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip
_SRGB, _GRAY, _SYCC = 16, 17, 18
"""Colors of JPEG 2000, by their numbers in ISO/IEC 15444-1, I.5.3.3."""

_CODESTREAM = b"\xff\x4f\xff\x51"
_TILE_PART, _END = b"\xff\x90", b"\xff\xd9"


def _boxes(data: memoryview, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and stop of the body of every box."""
    while start < stop:
        if start + 8 > stop:
            raise cut_off("file")
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        end = stop if size == 0 else start + size
        if end > stop:
            raise cut_off("file", end - stop)
        if end < body:
            raise ContainerError(f"the file is damaged at byte {start}; get a good copy of it")
        yield kind, body, end
        start = end


def read_avif(data: memoryview) -> Header:
    """The facts of an AVIF. Raises: ContainerError."""
    header = Header("avif", 0, 0, orientation=1)
    brands = b""
    found = False
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind == b"ftyp":
            brands = bytes(data[start:stop])
        elif kind == b"meta":
            _read_meta(header, data, start + 4, stop)
            found = True
        elif kind == b"moov" and b"avis" in (brands[at : at + 4] for at in range(0, len(brands), 4)):
            header.frames = max(header.frames, _frames(data, start, stop))
    if not found:
        raise cut_off("AVIF")
    return header


def _frames(data: memoryview, start: int, stop: int) -> int:
    """The largest sample count of any track."""
    count = 0
    for kind, inner, end in _boxes(data, start, stop):
        if kind in (b"trak", b"mdia", b"minf", b"stbl"):
            count = max(count, _frames(data, inner, end))
        elif kind == b"stsz":
            count = max(count, int.from_bytes(data[inner + 8 : inner + 12], "big"))
    return count


def _read_meta(header: Header, data: memoryview, start: int, stop: int) -> None:
    parts = {kind: (inner, end) for kind, inner, end in _boxes(data, start, stop)}
    if b"pitm" not in parts or b"iprp" not in parts:
        raise ContainerError("the AVIF names no main picture; get a good copy of the file")
    _read_items(header, data, parts)
    at, _ = parts[b"pitm"]
    primary = int.from_bytes(data[at + 4 : at + (8 if data[at] else 6)], "big")
    properties: list[tuple[bytes, int, int]] = []
    chosen: list[int] = []
    for kind, inner, end in _boxes(data, *parts[b"iprp"]):
        if kind == b"ipco":
            properties = list(_boxes(data, inner, end))
        elif kind == b"ipma":
            chosen += _associations(data, inner, primary)
    turns, axis = 0, None
    for index in chosen:
        if not 1 <= index <= len(properties):
            continue
        kind, inner, end = properties[index - 1]
        if kind == b"ispe":
            header.width, header.height = struct.unpack_from(">II", data, inner + 4)
        elif kind == b"irot":
            turns = data[inner] & 3
        elif kind == b"imir":
            axis = data[inner] & 1
        elif kind == b"clap":
            raise ContainerError("an AVIF with a crop box is not supported; save it as a PNG")
        elif kind == b"pixi":
            header.gray, header.bits = data[inner + 4] == 1, data[inner + 5]
        elif kind == b"av1C":
            flags = data[inner + 2]
            header.gray, header.bits = bool(flags & 0x10), 8 + (2 + (flags >> 4 & 2) if flags & 0x40 else 0)
        elif kind == b"colr" and bytes(data[inner : inner + 4]) in (b"prof", b"rICC"):
            header.icc = bytes(data[inner + 4 : end])
        elif kind == b"colr" and bytes(data[inner : inner + 4]) == b"nclx":
            header.colorimetry = colorimetry.of_nclx(bytes(data[inner + 4 : end]))
        elif kind in (b"mdcv", b"clli"):
            header.lost.append("HDR metadata")
    header.orientation = _ORIENTATION[turns, axis]


def _read_items(header: Header, data: memoryview, parts: dict[bytes, tuple[int, int]]) -> None:
    """Take EXIF and XMP out of the items that hold them."""
    if b"iinf" not in parts or b"iloc" not in parts:
        return
    wanted: dict[int, bytes] = {}
    start, stop = parts[b"iinf"]
    for kind, at, end in _boxes(data, start + (8 if data[start] else 6), stop):
        if kind == b"infe" and data[at] in (2, 3):
            wide = 4 if data[at] == 3 else 2
            item = int.from_bytes(data[at + 4 : at + 4 + wide], "big")
            text = bytes(data[at + 6 + wide : end])
            if text.startswith(b"tmap"):
                header.lost.append("gain map")
            if text.startswith((b"Exif", b"mime")):
                wanted[item] = text
    for item, body in _locations(data, parts[b"iloc"][0]):
        text = wanted.get(item, b"")
        if text.startswith(b"Exif") and len(body) > 4:
            header.exif = body[4 + int.from_bytes(body[:4], "big") :].removeprefix(b"Exif\0\0")
        elif b"application/rdf+xml" in text:
            header.xmp = body


def _locations(data: memoryview, at: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every item that lies directly in the file, in one piece."""
    version = data[at]
    offset_size, length_size = data[at + 4] >> 4, data[at + 4] & 15
    base_size, index_size = data[at + 5] >> 4, data[at + 5] & 15 if version else 0
    wide = 4 if version == 2 else 2
    at += 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base, extents = number(base_size), number(2)
        for _ in range(extents):
            number(index_size)
            offset, length = base + number(offset_size), number(length_size)
            if offset + length > len(data):
                raise cut_off("AVIF", offset + length - len(data))
            if method == 0 and extents == 1:
                yield item, bytes(data[offset : offset + length])


def _associations(data: memoryview, at: int, primary: int) -> list[int]:
    """Indices, from 1, of the properties of the item `primary`."""
    version, wide = data[at], data[at + 3] & 1
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    result: list[int] = []
    for _ in range(count):
        item = int.from_bytes(data[at : at + (4 if version else 2)], "big")
        at += 4 if version else 2
        number = data[at]
        at += 1
        for _ in range(number):
            index = struct.unpack_from(">H", data, at)[0] & 0x7FFF if wide else data[at] & 0x7F
            at += 2 if wide else 1
            if item == primary:
                result.append(index)
    return result


def read_jp2(data: memoryview) -> Header:
    """The facts of a JPEG 2000, boxed or bare. Raises: ContainerError."""
    header = Header("jp2", 0, 0)
    stream = (0, len(data)) if bytes(data[:4]) == _CODESTREAM else None
    claims: tuple[int, ...] | None = None
    space = None
    if stream is None:
        for kind, start, stop in _boxes(data, 0, len(data)):
            if kind == b"jp2h":
                for inner, at, end in _boxes(data, start, stop):
                    if inner == b"colr" and data[at] == 2:
                        header.icc = bytes(data[at + 3 : end])
                    elif inner == b"colr" and data[at] == 1:
                        (space,) = struct.unpack_from(">I", data, at + 3)
                    elif inner == b"ihdr":
                        claims = struct.unpack_from(">IIHBB", data, at)
            elif kind == b"jp2c":
                stream = stream or (start, stop)
            elif kind in (b"jP  ", b"ftyp") and stream is not None:
                raise ContainerError("another picture follows in the same file; take them apart")
    if stream is None or bytes(data[stream[1] - 2 : stream[1]]) != _END:
        raise cut_off("JPEG 2000")
    if _end_of_tiles(data, stream[0] + 2, stream[1]) != stream[1] - 2:
        raise ContainerError("its tiles do not end where the JPEG 2000 does; get a good copy of the file")
    at = stream[0] + 6
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 2)
    (components,) = struct.unpack_from(">H", data, at + 34)
    header.width, header.height, header.gray = right - left, bottom - top, components < 3
    depth = data[at + 36]
    wrong_colors = space in (_SRGB, _GRAY, _SYCC) and (space == _GRAY) != header.gray
    if wrong_colors or (claims is not None and claims not in _claims(header, components, depth)):
        raise ContainerError("the two headers of the JPEG 2000 contradict each other; get a good copy of the file")
    if any(data[at + 36 + 3 * number] != depth for number in range(components)):
        raise ContainerError("JPEG 2000 with channels of several depths is not supported; convert it to TIFF")
    if depth & 0x80:
        raise ContainerError("JPEG 2000 with signed samples is not supported; convert it to TIFF")
    header.bits = (depth & 0x7F) + 1
    return header


def _claims(header: Header, components: int, depth: int) -> Iterator[tuple[int, ...]]:
    """What the outer header may say of a codestream, which is compression 7: its depth, or that another box has it."""
    for told in (depth, 255):
        yield header.height, header.width, components, told, 7


def _end_of_tiles(data: memoryview, at: int, stop: int) -> int:
    """Where the parts of tiles in a codestream end, by the lengths that they tell. at: behind its first marker."""
    while at < stop and bytes(data[at : at + 2]) != _END:
        of_tile = bytes(data[at : at + 2]) == _TILE_PART
        length = struct.unpack_from(">I" if of_tile else ">H", data, at + (6 if of_tile else 2))[0]
        if of_tile and not length:  # the last one may reach to the end
            return stop - 2
        at += length if of_tile else 2 + length
    return at
