"""JPEG: a walk over its markers, and metadata for encoded files."""

from __future__ import annotations

import re
import struct

from sr_deploy.pictures.formats import ContainerError, Header, cannot_hold, cut_off, density

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_PHOTOSHOP, _IPTC = b"Photoshop 3.0\0", b"8BIM\x04\x04"
_FURTHER_PICTURES = b"MPF\0"
_SEGMENT = 65533
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_HUFFMAN = (0xC0, 0xC1, 0xC2)
_PIXELS_PER_BYTE = 8 * 64
"""At most: each block of 8x8 takes a bit."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Inside a scan, FF 00 is a data byte and FF D0..D7 a restart; fill bytes FF FF go on.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def read_header(data: memoryview) -> Header:
    """The facts of a JPEG that is complete up to its end marker.

    Raises: ContainerError.
    """
    header = Header("jpeg", 0, 0)
    profile: dict[int, bytes] = {}
    components = 0
    sequential, huffman, scanned = False, False, set[int]()
    adobe = False
    position = 2
    while True:
        marker, position = _marker(data, position)
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if position + length > len(data):
            raise cut_off("JPEG", position + length - len(data))
        body = data[position + 2 : position + length]
        position += length
        if marker in _FRAMES:
            precision, header.height, header.width, components = struct.unpack_from(">BHHB", body)
            sequential, huffman = marker in _SEQUENTIAL, marker in _HUFFMAN
            if precision != 8:
                raise ContainerError(f"{precision}-bit JPEG is not supported; convert it to a 16-bit PNG or TIFF")
        elif marker == 0xDA:
            coded = set(body[1 : 1 + 2 * body[0] : 2])
            if sequential and scanned & coded:
                raise ContainerError("the JPEG is damaged: one of its colors is coded twice; get a good copy of the file")
            scanned |= coded
            position = _scan_end(data, position)
        elif marker == 0xEE and bytes(body[:5]) == b"Adobe":
            adobe = True
        elif marker == 0xE0 and header.density is None:
            header.density = density.of_jfif(bytes(body))
        elif marker in (0xE1, 0xE2, 0xEB, 0xED):
            _read_metadata(header, profile, bytes(body))
    if not components or not scanned:
        raise ContainerError("the JPEG holds no picture; get a good copy of the file")
    if huffman and header.width * header.height > _PIXELS_PER_BYTE * len(data):
        raise cannot_hold(header, len(data))
    if components == 4 and not adobe:
        raise ContainerError("CMYK JPEG without Adobe's marker: its inks are ambiguous; convert it to RGB")
    if b"ftyp" in bytes(data[position : position + 64]):
        header.lost.append("motion video")
    header.gray = components == 1
    header.icc = _join(profile) if components != 4 else None
    return header


def mean_step(head: memoryview) -> float | None:
    """The mean of the quantizer's steps of luma; None where `head`, the first bytes of a JPEG, does not tell."""
    means: dict[int, float] = {}
    number, position = -1, 2
    while True:
        marker, position = _marker(head, position)
        if marker == 0xDA:
            return means.get(number)
        (length,) = struct.unpack_from(">H", head, position)
        body = head[position + 2 : position + length]
        position += length
        if marker == 0xDB:
            means |= _means_of_tables(body)
        elif marker in _FRAMES:
            number = body[8]


def _means_of_tables(body: memoryview) -> dict[int, float]:
    """By the number of each table, which has 64 steps of 8 or of 16 bits."""
    means: dict[int, float] = {}
    while body:
        wide, number = body[0] >> 4, body[0] & 15
        steps = struct.unpack_from(">64H" if wide else ">64B", body, 1)
        means[number] = sum(steps) / 64
        body = body[129 if wide else 65 :]
    return means


def _marker(data: memoryview, position: int) -> tuple[int, int]:
    """The next marker and the position behind it."""
    while position < len(data) and data[position] != 0xFF:
        position += 1
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise cut_off("JPEG")
    return data[position], position + 1


def _scan_end(data: memoryview, position: int) -> int:
    found = _NEXT_MARKER.search(data, position)
    if found is None:
        raise cut_off("JPEG")
    return found.start()


def _read_metadata(header: Header, profile: dict[int, bytes], body: bytes) -> None:
    if body.startswith(_EXIF) and header.exif is None:
        header.exif = body[len(_EXIF) :]
    elif body.startswith(_XMP):
        header.xmp = body[len(_XMP) :]
    elif body.startswith(_ISO_GAIN_MAP):
        header.lost.append("gain map")
    elif body.startswith(_PHOTOSHOP) and _IPTC in body:
        header.lost.append("IPTC")
    elif body.startswith(b"JP") and b"c2pa" in body:
        header.lost.append("content credentials")
    elif body.startswith(_FURTHER_PICTURES):
        header.lost.append("further pictures")
    elif body.startswith(_ICC) and len(body) > len(_ICC) + 2:
        profile[body[len(_ICC)]] = body[len(_ICC) + 1 :]


def _join(profile: dict[int, bytes]) -> bytes | None:
    """The ICC profile from its numbered parts, None when one is missing."""
    if not profile or sorted(profile) != list(range(1, next(iter(profile.values()))[0] + 1)):
        return None
    return b"".join(profile[number][1:] for number in sorted(profile))


def segments(exif: bytes | None, icc: bytes | None, xmp: bytes | None) -> tuple[bytes, tuple[str, ...]]:
    """The segments to insert behind the first two bytes of a JPEG, and the names of what is too large for one."""
    result, left_out = b"", []
    for name, prefix, body in (("EXIF", _EXIF, exif), ("XMP", _XMP, xmp)):
        if body and len(prefix) + len(body) > _SEGMENT:
            left_out.append(name)
        elif body:
            result += _segment(0xE1, prefix + body)
    size = _SEGMENT - len(_ICC) - 2
    parts = [icc[start : start + size] for start in range(0, len(icc), size)] if icc else []
    if len(parts) > 255:
        left_out.append("ICC profile")
    else:
        for number, part in enumerate(parts, 1):
            result += _segment(0xE2, _ICC + bytes((number, len(parts))) + part)
    return result, tuple(left_out)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
