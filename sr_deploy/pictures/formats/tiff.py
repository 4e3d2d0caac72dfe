"""TIFF: a walk over its directory, and a writer that streams deflated strips.

Source: TIFF 6.0 (Adobe, 1992), and its Technical Note 3 for the floating-point predictor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sr_deploy.pictures.formats import ContainerError, Header, cut_off, geotiff
from sr_deploy.pictures.formats import exif as tags
from sr_deploy.pictures.formats.deflate import check, compressor, in_order, strips
from sr_deploy.pictures.formats.density import Density
from sr_deploy.pictures.formats.exif import Field, IfdEntry, integers, read_ifd

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _COLOR_MAP = 256, 257, 258, 259, 262, 320
_STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES, _PREDICTOR = 273, 277, 278, 279, 284, 317
_SUBFILE, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 254, 338, 339
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_XMP, _ICC, _SUBSAMPLING = 700, 34675, 530
_FILL_ORDER, _RPC, _IPTC = 266, 50844, 33723
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_UNSIGNED, _FLOAT = 1, 3
_STRUCTURE = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _COLOR_MAP, _STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES,
    _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _FILL_ORDER,
    _SUBSAMPLING,
}  # fmt: skip
"""Tags that pixels are decoded by."""
_LIMIT = (1 << 32) - (1 << 24)
_DEFLATE, _JPEG = (8, 32946), (6, 7)
_FOREIGN = {
    34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy DNG", 34925: "LZMA",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
"""Compressions that OpenCV's wheel does not decode."""


def read_header(data: memoryview) -> Header:
    """The facts of a TIFF whose pixels lie inside the file.

    Raises: ContainerError.
    """
    order = tags.byte_order(data)
    offset, big = _first_offset(data, order)
    try:
        pages = _pages(data, offset, order, big)
    except ContainerError as exc:
        raise ContainerError(f"the TIFF is cut off or damaged: {exc}; get a good copy of the file") from exc
    if not pages:
        raise ContainerError("the TIFF holds no picture; get a good copy of the file")
    page = pages[0]
    for tag in sorted(_STRUCTURE & page.keys()):
        if not integers(data, page[tag], order):
            raise ContainerError(f"the TIFF is damaged: tag {tag} holds no numbers; get a good copy of the file")

    def one(tag: int, default: int) -> int:
        values = integers(data, page.get(tag), order)
        return values[0] if values else default

    # Some writers get the byte counts of uncompressed strips wrong; none can be longer than the picture.
    raw = one(_HEIGHT, 0) * ((one(_WIDTH, 0) * one(_SAMPLES, 1) * one(_BITS, 1) + 7) // 8)
    longest = raw if one(_COMPRESSION, 1) == 1 else len(data)
    for offsets, sizes in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        places, lengths = integers(data, page.get(offsets), order), integers(data, page.get(sizes), order)
        if lengths and len(places) != len(lengths):
            raise ContainerError("the TIFF is damaged: the places and lengths of its strips differ in number; get a good copy")
        missing = max(
            (place + min(length, longest) - len(data) for place, length in zip(places, lengths, strict=False)), default=0
        )
        if missing > 0:
            raise cut_off("TIFF", missing)
    photometric = one(_PHOTOMETRIC, -1)
    header = Header("tiff", one(_WIDTH, 0), one(_HEIGHT, 0), frames=len(pages))
    header.gray = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    header.orientation = one(tags.ORIENTATION, 0) or None
    header.exif = tags.exif_block(tags.descriptive(tags.collect(data, page, order)))
    header.verify = partial(_check_deflated, data, page, order)
    header.xmp = _bytes(data, page.get(_XMP))
    header.geo = tags.collect(data, {tag: entry for tag, entry in page.items() if tag in geotiff.TAGS}, order)
    header.lost.extend(name for tag, name in ((_RPC, "RPC coefficients"), (_IPTC, "IPTC")) if tag in page)
    if photometric == _CMYK:
        header.alpha = "none"
    else:
        header.icc = _bytes(data, page.get(_ICC))
        if (meaning := one(_EXTRA_SAMPLES, 2)) == 1:
            header.alpha = "premultiplied"
        elif meaning == 0:
            header.alpha = "none"
            header.lost.append("channel without a meaning")
    return header


def prepare(data: memoryview) -> None:
    """Take orientation and the meaning of alpha out of the file, in place, and refuse what would decode to wrong pixels.

    The decoder would otherwise turn the picture itself, and multiply the colors with a straight alpha.

    Raises: ContainerError.
    """
    order = tags.byte_order(data)
    page = _first_page(data, order)
    _check_supported(data, page, order)
    for tag in (tags.ORIENTATION, _EXTRA_SAMPLES):
        if integers(data, page.get(tag), order):
            tags.set_integers(data, page[tag], order, 1)


def _check_deflated(data: memoryview, page: dict[int, IfdEntry], order: str) -> None:
    def all_of(tag: int, default: int) -> list[int]:
        return integers(data, page.get(tag), order) or [default]

    if all_of(_COMPRESSION, 1)[0] not in _DEFLATE or all_of(_FILL_ORDER, 1)[0] != 1:
        return
    row = (all_of(_WIDTH, 0)[0] + 4096) * all_of(_SAMPLES, 1)[0] * max(8, *all_of(_BITS, 1)) // 8
    most = 2 * row * (all_of(_HEIGHT, 0)[0] + 4096)
    for offsets, sizes in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        for place, size in zip(all_of(offsets, 0), all_of(sizes, 0), strict=False):
            if size:
                check([data[place : place + size]], most)


def _check_supported(data: memoryview, page: dict[int, IfdEntry], order: str) -> None:
    compression = (integers(data, page.get(_COMPRESSION), order) or [1])[0]
    if compression in _FOREIGN:
        raise ContainerError(f"a TIFF compressed by {_FOREIGN[compression]} is not supported; save it with LZW or deflate")
    photometric = (integers(data, page.get(_PHOTOMETRIC), order) or [-1])[0]
    bits = integers(data, page.get(_BITS), order) or [1]
    kind = (integers(data, page.get(_SAMPLE_FORMAT), order) or [_UNSIGNED])[0]
    samples = (integers(data, page.get(_SAMPLES), order) or [1])[0]
    color_samples = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3, _YCBCR: 3, _CMYK: 4}.get(photometric)
    if color_samples is None:
        name = {8: "CIELAB", 9: "CIELAB", 10: "ITU Lab", -1: "no stated"}.get(photometric, f"unknown ({photometric})")
        raise ContainerError(f"a TIFF of {name} color space is not supported; convert it to RGB or gray")
    if not color_samples <= samples <= color_samples + (photometric != _CMYK):
        raise ContainerError(f"a TIFF with {samples} samples per pixel is not supported; convert it to RGB, RGBA or gray")
    planes = (integers(data, page.get(_PLANES), order) or [1])[0]
    if bits[0] > 8 and (photometric == _WHITE_IS_ZERO or (planes == 2 and samples > 1)):
        what = "white stored as 0" if photometric == _WHITE_IS_ZERO else "separate color planes"
        raise ContainerError(f"a TIFF of {bits[0]}-bit samples with {what} is not supported; convert it to a common TIFF")
    if photometric == _YCBCR and compression not in _JPEG and not integers(data, page.get(_SUBSAMPLING), order):
        raise ContainerError("a TIFF of YCbCr that does not tell its chroma subsampling is not supported; convert it to RGB")
    if color_samples == 1 and samples == 2:
        raise ContainerError("a TIFF of gray with alpha is not supported; convert it to RGBA")
    if (
        len(set(bits)) > 1
        or (kind, bits[0]) not in {(_UNSIGNED, n) for n in (1, 2, 4, 8, 16)} | {(_FLOAT, 32), (_FLOAT, 64)}
        or (photometric == _CMYK and bits[0] != 8)
    ):
        what = {_UNSIGNED: "integer", 2: "signed", _FLOAT: "float"}.get(kind, "unknown")
        raise ContainerError(
            f"a TIFF of {bits[0]}-bit {what} samples is not supported; convert it to 8 or 16-bit integer or 32-bit float"
        )
    if photometric == _PALETTE and len(integers(data, page.get(_COLOR_MAP), order) or []) != 3 << bits[0]:
        raise ContainerError(f"its palette is not of {1 << bits[0]} colors, as its samples need; get a good copy of the file")


def _first_offset(data: memoryview, order: str) -> tuple[int, bool]:
    """Where the first directory lies, and whether the file is a BigTIFF."""
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    return struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0], big


def _first_page(data: memoryview, order: str) -> dict[int, IfdEntry]:
    offset, big = _first_offset(data, order)
    return read_ifd(data, offset, order, big=big)[0]


def _pages(data: memoryview, offset: int, order: str, big: bool) -> list[dict[int, IfdEntry]]:
    """The directories of full pictures, without thumbnails and masks."""
    pages: list[dict[int, IfdEntry]] = []
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        entries, offset = read_ifd(data, offset, order, big=big, once=_STRUCTURE)
        subfile = (integers(data, entries.get(_SUBFILE), order) or [0])[0]
        if not subfile & 0b101 or not pages:
            pages.append(entries)
    return pages


def _bytes(data: memoryview, entry: IfdEntry | None) -> bytes | None:
    return bytes(data[entry.position : entry.position + entry.size]) or None if entry is not None else None


def check_size(height: int, width: int, pixel_bytes: int) -> None:
    """Raises: ContainerError when a picture is too large for a TIFF."""
    if height * width * pixel_bytes > _LIMIT:
        raise ContainerError(f"{width}x{height} pixels need more than the 4 GB of a TIFF; write a PNG instead")


def write(
    file: BinaryIO,
    rows: Callable[[int, int], NDArray[Any]],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    *,
    exif: bytes | None,
    icc: bytes | None,
    xmp: bytes | None,
    dots: Density | None,
    geo: tuple[Field, ...],
) -> None:
    """Write a TIFF of (H, W, C) samples: C = 1 gray, 3 RGB, 4 RGBA; uint8, uint16 or float32.

    `rows(start, stop)` gives (stop - start, W, C); it is called on several threads.

    Raises: ContainerError when the picture is too large for a TIFF.
    """
    height, width, channels = shape
    row_bytes = width * channels * dtype.itemsize
    check_size(height, width, channels * dtype.itemsize)
    ranges = strips(height, row_bytes)
    differences = _float_differences if dtype == np.float32 else _integer_differences
    file.write(b"II*\0\0\0\0\0")
    position, places, sizes = 8, [], []

    def pack(start: int, stop: int) -> bytes:
        samples = differences(rows(start, stop)).data
        machine = compressor(samples)
        return machine.compress(samples) + machine.flush()

    for packed in in_order(pack, ranges):
        padded = packed + b"\0" * (len(packed) % 2)
        file.write(padded)
        places.append(position)
        sizes.append(len(packed))
        position += len(padded)
    fields = [
        _longs(_WIDTH, width),
        _longs(_HEIGHT, height),
        _shorts(_BITS, *[8 * dtype.itemsize] * channels),
        _shorts(_COMPRESSION, 8),
        _shorts(_PHOTOMETRIC, _BLACK_IS_ZERO if channels == 1 else _RGB),
        _longs(_STRIP_OFFSETS, *places),
        _shorts(tags.ORIENTATION, 1),
        _shorts(_SAMPLES, channels),
        _longs(_ROWS, ranges[0][1]),
        _longs(_STRIP_BYTES, *sizes),
        _shorts(_PLANES, 1),
        _shorts(_PREDICTOR, 3 if dtype == np.float32 else 2),
        _shorts(_SAMPLE_FORMAT, *[_FLOAT if dtype == np.float32 else _UNSIGNED] * channels),
        *([_shorts(_EXTRA_SAMPLES, 2)] if channels == 4 else []),
        *([Field(_XMP, 1, len(xmp), xmp)] if xmp else []),
        *([Field(_ICC, 7, len(icc), icc)] if icc else []),
        *geo,
        *tags.exif_fields(exif),
    ]
    if dots:
        given = {item.tag for item in fields}
        fields += [item for item in dots.fields if item.tag not in given]
    file.write(tags.pack_ifd(tuple(fields), position))
    file.seek(4)
    file.write(struct.pack("<I", position))


def _integer_differences(samples: NDArray[Any]) -> NDArray[Any]:
    result = np.empty(samples.shape, samples.dtype.newbyteorder("<"))
    result[:, :1] = samples[:, :1]
    np.subtract(samples[:, 1:], samples[:, :-1], out=result[:, 1:])
    return result


def _float_differences(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Each row as four planes of bytes, highest first, each byte minus that of the pixel to its left."""
    count, width, channels = samples.shape
    planes = samples.astype(">f4").view(np.uint8).reshape(count, width * channels, 4).transpose(0, 2, 1)
    row = planes.reshape(count, 4 * width * channels)
    result = row.copy()
    np.subtract(row[:, channels:], row[:, :-channels], out=result[:, channels:])
    return result


def _shorts(tag: int, *values: int) -> Field:
    return Field(tag, 3, len(values), struct.pack(f"<{len(values)}H", *values))


def _longs(tag: int, *values: int) -> Field:
    return Field(tag, 4, len(values), struct.pack(f"<{len(values)}I", *values))
