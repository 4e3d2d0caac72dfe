"""PNG: a strict walk over its chunks, and a writer that streams strips of rows through several threads.

Source: PNG specification, third edition (W3C), https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sr_deploy.pictures.formats import MAX_PIXELS, ContainerError, Header, cannot_hold, cut_off
from sr_deploy.pictures.formats.deflate import adler32_combine, check, compressor, in_order, strips

if TYPE_CHECKING:
    from sr_deploy.pictures.formats.colorimetry import Colorimetry
    from sr_deploy.pictures.formats.density import Density

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_METADATA_LIMIT = 1 << 26
_OF_COLORS = {b"cICP", b"gAMA", b"cHRM"}
_SUB, _UP = 1, 2


def read_header(data: memoryview, *, deep: bool) -> Header:
    """The facts of a PNG; with `deep`, checksums are compared and what needs no decoder is put aside.

    Raises: ContainerError.
    """
    header: Header | None = None
    color = depth = 0
    ended = colorful = False
    packed: list[memoryview] = []
    told: dict[bytes, bytes] = {}
    kept: list[memoryview] = [data[:8]]
    for kind, start, stop in _chunks(data):
        body = data[start:stop]
        if header is None:
            if kind != b"IHDR" or len(body) != 13:
                raise ContainerError("the PNG does not begin with its header; get a good copy of the file")
            header, depth, color = _read_ihdr(body)
        critical = not kind[0] & 0x20
        colorful = colorful or kind == b"PLTE"
        if color == 3 and kind in (b"tRNS", b"IDAT") and not colorful:
            raise ContainerError(f"the PNG is damaged: {kind.decode()} comes before its palette; get a good copy of the file")
        if deep:
            _check(data, kind, start, stop)
        if critical or (kind == b"tRNS" and color == 3):
            kept.append(data[start - 8 : stop + 4])
        if kind == b"IDAT":
            packed.append(body)
        elif kind == b"IEND":
            ended = True
            break
        elif kind == b"acTL" and len(body) == 8:
            header.frames = int.from_bytes(body[:4], "big")
        elif kind == b"tRNS" and color in (0, 2):
            header.color_key = _color_key(bytes(body), depth, color)
        elif deep:
            told[kind] = bytes(body)
            _read_metadata(header, kind, told[kind])
    if header is None or not ended:
        raise cut_off("PNG")
    # Deflate packs at most 1032 to 1: less data than that cannot fill the picture that the header claims.
    size, count = header.height * ((header.width * _SAMPLES[color] * depth + 7) // 8), sum(map(len, packed))
    if count * 1032 + 4096 < size:
        raise cannot_hold(header, count)
    if b"pHYs" in told:
        from sr_deploy.pictures.formats import density

        header.density = density.of_phys(told[b"pHYs"])
    if told.keys() & _OF_COLORS:
        from sr_deploy.pictures.formats import colorimetry

        header.colorimetry = colorimetry.of_chunks(told)
    if deep and header.frames < 2:
        header.verify = partial(check, packed, 2 * size + 4096 + 8 * header.height)
    # libpng would act on, or complain of, what is not needed for the pixels.
    if deep and sum(map(len, kept)) < len(data):
        header.decode = b"".join(kept)
    return header


def may_move(head: memoryview) -> bool:
    """Whether the first bytes of a PNG leave it open, or say, that it is animated."""
    try:
        for kind, _, _ in _chunks(head):
            if kind in (b"acTL", b"IDAT"):
                return kind == b"acTL"
    except ContainerError:
        pass
    return True


def _chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and stop of the body of every chunk."""
    position = len(SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise cut_off("PNG")
        length, kind = struct.unpack_from(">I4s", data, position)
        if length > 0x7FFFFFFF or not kind.isalpha():
            raise ContainerError(f"the PNG is damaged at byte {position}; get a good copy of the file")
        start, stop = position + 8, position + 8 + length
        if stop + 4 > len(data):
            raise cut_off("PNG", stop + 4 - len(data))
        yield kind, start, stop
        position = stop + 4


def _check(data: memoryview, kind: bytes, start: int, stop: int) -> None:
    if zlib.crc32(data[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
        raise ContainerError(f"the PNG is damaged: wrong checksum in {kind.decode()}; get a good copy of the file")


def _read_ihdr(body: memoryview) -> tuple[Header, int, int]:
    width, height, depth, color, compression, filters, interlace = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(color, ()) or compression or filters or interlace > 1:
        raise ContainerError("the PNG header is not valid; get a good copy of the file")
    return Header("png", width, height, gray=color in (0, 4)), depth, color


def _color_key(body: bytes, depth: int, color: int) -> tuple[int, ...] | None:
    count = _SAMPLES[color]
    if len(body) < 2 * count:
        return None
    mask = (1 << depth) - 1
    scale = 255 // mask if depth < 8 else 1
    return tuple((value & mask) * scale for value in struct.unpack_from(f">{count}H", body))


def _read_metadata(header: Header, kind: bytes, body: bytes) -> None:
    if kind == b"eXIf":
        header.exif = body
    elif kind == b"iCCP":
        _, _, packed = body.partition(b"\0")
        header.icc = _inflate(packed[1:]) or None
    elif kind in (b"mDCV", b"cLLI"):
        header.lost.append("HDR metadata")
    elif kind == b"iTXt" and body.startswith(_XMP_KEYWORD + b"\0"):
        flags, rest = body[len(_XMP_KEYWORD) + 1 :][:2], body[len(_XMP_KEYWORD) + 3 :]
        text = rest.split(b"\0", 2)[-1]
        header.xmp = (_inflate(text) if flags[:1] == b"\1" else text) or None


def _inflate(packed: bytes) -> bytes:
    """The unpacked bytes; empty when damaged or larger than any metadata."""
    try:
        machine = zlib.decompressobj()
        data = machine.decompress(packed, _METADATA_LIMIT)
    except zlib.error:
        return b""
    return data if machine.eof else b""


def check_size(height: int, width: int) -> None:
    """Raises: ContainerError when a picture is too large for a PNG."""
    if width * height > MAX_PIXELS:
        raise ContainerError(f"{width}x{height} are more than {MAX_PIXELS} pixels, which readers refuse; make it smaller")


def write(
    file: BinaryIO,
    rows: Callable[[int, int], NDArray[Any]],
    shape: tuple[int, int, int],
    depth: int,
    *,
    exif: bytes | None,
    icc: bytes | None,
    xmp: bytes | None,
    colors: Colorimetry | None,
    dots: Density | None,
) -> None:
    """Write a PNG of (H, W, C) samples: C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA; uint8 or uint16 by `depth`.

    `rows(start, stop)` gives (stop - start, W, C); it is called on several threads.

    Raises: ContainerError when the picture is too large for a PNG.
    """
    height, width, channels = shape
    check_size(height, width)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    for kind, body in colors.chunks() if colors else ():
        _write_chunk(file, kind, body)
    if dots:
        _write_chunk(file, b"pHYs", dots.phys)
    if icc:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if exif:
        _write_chunk(file, b"eXIf", exif)
    if xmp:
        _write_chunk(file, b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + xmp)
    step = channels * depth // 8
    checksum, first = 1, True

    def pack(start: int, stop: int) -> tuple[bytes, int, int]:
        above = min(start, 1)
        filtered = _filter(rows(start - above, stop), step, above).data
        machine = compressor(filtered, -zlib.MAX_WBITS)
        packed = machine.compress(filtered)
        packed += machine.flush(zlib.Z_FINISH if stop == height else zlib.Z_SYNC_FLUSH)
        return packed, zlib.adler32(filtered), filtered.nbytes

    for packed, adler, size in in_order(pack, strips(height, width * step)):
        checksum = adler32_combine(checksum, adler, size)
        _write_chunk(file, b"IDAT", b"\x78\x01" + packed if first else packed)
        first = False
    _write_chunk(file, b"IDAT", struct.pack(">I", checksum))
    _write_chunk(file, b"IEND", b"")


def _filter(samples: NDArray[Any], step: int, above: int) -> NDArray[np.uint8]:
    """The rows behind the first `above` as bytes with the filter's number in front.

    Each row minus its left or its upper neighbor, whichever leaves less. `step`: bytes per pixel.
    """
    big_endian = samples.astype(">u2") if samples.dtype == np.uint16 else np.ascontiguousarray(samples)
    raw = big_endian.view(np.uint8).reshape(samples.shape[0], -1)
    sub = raw[above:].copy()
    np.subtract(raw[above:, step:], raw[above:, :-step], out=sub[:, step:])
    up = raw[above:].copy()
    np.subtract(raw[1:], raw[:-1], out=up[1 - above :])
    choose_up = _magnitude(up) < _magnitude(sub)
    filtered = np.empty((sub.shape[0], sub.shape[1] + 1), np.uint8)
    filtered[:, 0] = np.where(choose_up, _UP, _SUB)
    filtered[:, 1:] = sub
    filtered[choose_up, 1:] = up[choose_up]
    return filtered


def _magnitude(differences: NDArray[np.uint8]) -> NDArray[np.int64]:
    result: NDArray[np.int64] = np.abs(differences.view(np.int8)).view(np.uint8).sum(axis=1, dtype=np.int64)
    return result


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + kind)
    file.write(body)
    file.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
