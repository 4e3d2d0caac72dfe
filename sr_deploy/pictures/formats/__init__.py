"""Image formats: what a file is, whether it is whole, and what it holds; OpenCV turns the samples into pixels.

Here is what they share: which of them a file is by its content, and what it says about itself before anything is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sr_deploy.pictures.formats.colorimetry import Colorimetry
    from sr_deploy.pictures.formats.density import Density
    from sr_deploy.pictures.formats.exif import Field

# 2 ** 30 pixels is also where OpenCV stops.
MAX_PIXELS = 1 << 30

_PNG = b"\x89PNG\r\n\x1a\n"
_FOREIGN = (
    (b"\x76\x2f\x31\x01", "an OpenEXR picture, which OpenCV's wheel cannot decode; convert it to a TIFF of 32-bit float"),
    (b"#?RADIANCE", "a Radiance HDR picture; convert it to a TIFF of 32-bit float"),
    (b"#?RGBE", "a Radiance HDR picture; convert it to a TIFF of 32-bit float"),
    (b"8BPS", "a Photoshop file; export it as PNG or TIFF"),
    (b"\xff\x0a", "a JPEG XL picture; convert it to PNG or TIFF"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture; convert it to PNG or TIFF"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video; give it as a video"),
    (b"%PDF", "a PDF; export its pictures as PNG"),
    (b"<svg", "an SVG drawing, which needs no super-resolution; render it at the size that you want"),
    (b"<?xml", "an XML file; give a picture"),
)
_PNM = re.compile(rb"P([56])\s" + rb"(?:\s|#[^\n]*\n)*(\d+)\s" * 3)
"""A comment right behind a number ends it for some readers, and not for others: such a file is none."""


class ContainerError(Exception):
    """A file is damaged or holds what is not supported; the message says what and what to do, not which file."""


class UnknownFormatError(ContainerError):
    """A file is no picture of a format that is read."""


class TooManyPixelsError(ContainerError):
    """A file claims more pixels than are read."""


@dataclass
class Header:
    """The facts of one image file.

    `gray`: one channel of luminance. `alpha`: how the decoder's fourth channel is meant; 'none' when it means nothing.
    `color_key`: the sample values that are transparent. `bits`: significant bits per sample when the decoder does not scale
    them. `bits_565`: bits per channel of a 16-bit BMP. `orientation`: as in EXIF, when the container itself decides, else None.
    `decode`: what to give to the decoder instead of the file's bytes. `geo`: the tags of GeoTIFF. `lost`: what the file holds
    and is not read, in words. `verify`: compares checksums that decoders do not, which takes as long as they do.
    """

    format: str
    width: int
    height: int
    frames: int = 1
    gray: bool = False
    alpha: Literal["straight", "premultiplied", "none"] = "straight"
    color_key: tuple[int, ...] | None = None
    bits: int | None = None
    bits_565: tuple[int, int, int] | None = None
    orientation: int | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    colorimetry: Colorimetry | None = None
    density: Density | None = None
    geo: tuple[Field, ...] = ()
    lost: list[str] = field(default_factory=list)
    verify: Callable[[], None] | None = None
    decode: bytes | None = None


def cut_off(what: str, missing: int | None = None) -> ContainerError:
    """The error for a file that ends too early."""
    amount = f", at least {missing} bytes are missing" if missing else ""
    return ContainerError(f"the {what} is cut off{amount}; get a complete copy of the file")


def cannot_hold(header: Header, count: int) -> ContainerError:
    """The error for a file whose header claims more pixels than its bytes can be unpacked to."""
    return ContainerError(
        f"its header claims {header.width}x{header.height} pixels, its {count} bytes cannot hold them; "
        "get a good copy of the file"
    )


def inspect(data: memoryview, *, deep: bool = True) -> Header:
    """Facts of an image file; its structure is walked to the end, so that a file that was cut off is noticed.

    With `deep`, checksums are compared and metadata is read too.

    Raises: ContainerError when the file is damaged, or none of the formats that sr-deploy reads.
    """
    try:
        header = _dispatch(data, deep)
    except (struct.error, IndexError, ValueError, OverflowError) as exc:
        raise ContainerError("the file is cut off or damaged; get a good copy of it") from exc
    _check_size(header)
    return header


def may_move(head: memoryview) -> bool:
    """Whether a file may be animated, by its first bytes, so that a folder of still pictures need not be read for that."""
    start = bytes(head[:21])
    if start.startswith(_PNG):
        from sr_deploy.pictures.formats import png

        return png.may_move(head)
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
        return len(start) > 20 and bool(start[20] & 2)
    return start[8:12] != b"WEBP"


def _check_size(header: Header) -> None:
    if not header.width or not header.height:
        raise ContainerError(
            f"the file claims {header.width}x{header.height} pixels, both must be at least 1; get a good copy of it"
        )
    if header.width * header.height > MAX_PIXELS:
        raise TooManyPixelsError(
            f"the file claims {header.width}x{header.height} pixels, the limit is {MAX_PIXELS}; cut the picture into parts"
        )


def _dispatch(data: memoryview, deep: bool) -> Header:
    start = bytes(data[:16])
    if not start:
        raise ContainerError("the file is empty; get a good copy of it")
    if start.startswith(_PNG):
        from sr_deploy.pictures.formats import png

        return png.read_header(data, deep=deep)
    if start.startswith(b"\xff\xd8\xff"):
        from sr_deploy.pictures.formats import jpeg

        return jpeg.read_header(data)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        from sr_deploy.pictures.formats import tiff

        return tiff.read_header(data)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(data)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if start[:2] == b"BM":
        return _bmp(data)
    if start[4:12] == b"jP  \r\n\x87\n" or start[:4] == b"\xff\x4f\xff\x51":
        from sr_deploy.pictures.formats import boxes

        return boxes.read_jp2(data)
    if start[4:8] == b"ftyp":
        if start[8:12] in (b"avif", b"avis") or (start[8:12] in (b"mif1", b"msf1") and b"avif" in bytes(data[:64])):
            from sr_deploy.pictures.formats import boxes

            return boxes.read_avif(data)
        heic = start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")
        what = "a HEIC picture; convert it to JPEG or PNG" if heic else "a video; give it as a video"
        raise UnknownFormatError(f"it is {what}")
    found = _PNM.match(data)
    if found:
        return _pnm(data, found)
    for magic, what in _FOREIGN:
        if start.startswith(magic):
            raise UnknownFormatError(f"it is {what}")
    raise UnknownFormatError("it is no picture; expected PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PGM or PPM")


def _webp(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    end = size + 8
    if end > len(data):
        raise cut_off("WebP", end - len(data))
    header = Header("webp", 0, 0)
    position, frames = 12, 0
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if position > end + 1:
            raise cut_off("WebP", position - end)
        if kind == b"VP8X":
            header.width = 1 + int.from_bytes(body[4:7], "little")
            header.height = 1 + int.from_bytes(body[7:10], "little")
        elif kind == b"VP8 " and not header.width:
            width, height = struct.unpack_from("<HH", body, 6)
            header.width, header.height = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and not header.width:
            (packed,) = struct.unpack_from("<I", body, 1)
            header.width, header.height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"ICCP":
            header.icc = bytes(body)
        elif kind == b"EXIF":
            header.exif = bytes(body).removeprefix(b"Exif\0\0")
        elif kind == b"XMP ":
            header.xmp = bytes(body)
    header.frames = max(1, frames)
    return header


def _gif(data: memoryview) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    header = Header("gif", width, height, frames=0)
    _check_size(header)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while True:
        kind = data[position]
        if kind == 0x3B:
            break
        if kind == 0x21:
            position += 2
        elif kind == 0x2C:
            header.frames += 1
            local = data[position + 9]
            position += 11 + (3 << (local & 7) + 1 if local & 0x80 else 0)
        else:
            raise ContainerError(f"the GIF is damaged at byte {position}; get a good copy of the file")
        while data[position]:
            position += 1 + data[position]
        position += 1
    if not header.frames:
        raise ContainerError("the GIF holds no picture; get a good copy of the file")
    if width * height > _GIF_PIXELS_PER_BYTE * len(data):
        raise cannot_hold(header, len(data))
    return header


_GIF_PIXELS_PER_BYTE = 4096 * 8 // 12
"""A code of 12 bits stands for no more than 4096 pixels."""

_LARGEST_BMP_HEADER = 124
"""That of BITMAPV5HEADER, the last one."""
_BMP_FILE_HEADER = 14


def _bmp(data: memoryview) -> Header:
    offset, size = struct.unpack_from("<II", data, 10)
    if size < 40:
        raise ContainerError("a BMP of the OS/2 kind is not supported; convert it to PNG")
    if size > _LARGEST_BMP_HEADER or offset < _BMP_FILE_HEADER + size:
        raise ContainerError("the BMP header is not valid; get a good copy of the file")
    width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    (used,) = struct.unpack_from("<I", data, 46)
    header = Header("bmp", max(0, width), abs(height))
    from sr_deploy.pictures.formats import density

    header.density = density.of_bmp(data)
    colors = (used or 1 << depth) if depth <= 8 else 0
    if offset < _BMP_FILE_HEADER + size + 4 * colors:
        raise ContainerError("the colors of the BMP reach into its pixels; get a good copy of the file")
    needed = offset + (width * depth + 31) // 32 * 4 * abs(height)
    if compression in (0, 3, 6) and needed > len(data):
        raise cut_off("BMP", needed - len(data))
    masks = struct.unpack_from("<IIII", data, 54) if compression in (3, 6) and len(data) >= 70 else (0, 0, 0, 0)
    if depth == 32 and (compression == 0 or ((size < 56 and compression == 3) or not masks[3])):
        header.alpha = "none"
    if depth == 16:
        kinds = {(0x7C00, 0x3E0, 0x1F): (5, 5, 5), (0xF800, 0x7E0, 0x1F): (5, 6, 5)}
        header.bits_565 = (5, 5, 5) if compression == 0 else kinds.get(masks[:3])
        if header.bits_565 is None:
            raise ContainerError("a 16-bit BMP with unusual masks is not supported; convert it to PNG")
    return header


def _pnm(data: memoryview, found: re.Match[bytes]) -> Header:
    kind, width, height, limit = (int(part) for part in found.groups())
    if limit not in (255, 65535):
        raise ContainerError(f"a PNM with white at {limit} is not supported, only 255 and 65535; convert it to PNG")
    needed = found.end() + width * height * (3 if kind == 6 else 1) * (1 if limit == 255 else 2)
    if needed > len(data):
        raise cut_off("PNM", needed - len(data))
    return Header("pnm", width, height, gray=kind == 5)
