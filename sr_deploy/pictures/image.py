"""Image files to arrays and metadata, and back."""

from __future__ import annotations

import io
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError, UsageError
from sr_deploy.files import growing, odd_kind, read_regular
from sr_deploy.pictures.formats import ContainerError, Header, inspect, may_move
from sr_deploy.pictures.formats.decode import decode, turn_upright
from sr_deploy.pictures.formats.encode import ENCODERS, EncoderInput, check, encode
from sr_deploy.pictures.picture import Metadata, Picture, as_path, as_picture

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

__all__ = [
    "CONTAINERS",
    "NUMBER",
    "PICTURES_THAT_MOVE",
    "PIPE",
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Metadata",
    "Picture",
    "check_suffix",
    "check_target",
    "decode_image",
    "encode_image",
    "is_animated",
    "is_whole",
    "names_stream",
    "read_image",
    "write_image",
]

# What OpenCV would log becomes the text of our errors.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

WRITABLE_SUFFIXES = frozenset(ENCODERS)
_HEAD = 1 << 16
READABLE_SUFFIXES = WRITABLE_SUFFIXES | {".jpe", ".jfif", ".gif", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm"}

PIPE = Path("-")
"""Standard input or output."""

CONTAINERS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}
"""Endings of the videos that are written, and FFmpeg's name of their format."""

PICTURES_THAT_MOVE = frozenset({".gif", ".png", ".webp"})
"""Endings of files that may hold one picture or an animation."""

_HEAD = 1 << 20
"""Bytes that have the tables of a JPEG, behind its metadata."""

_COARSE_STEP = 11.0
"""Of luma, in the mean: 11.5 is quality 90 of libjpeg, where networks for clean pictures and those that restore are alike."""

NUMBER = re.compile(r"%(0?)(\d*)d")
"""In the name of numbered pictures: whether zeros fill it, and how many digits it has at least."""


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Read an image file, turned upright; its content decides the format, not its name.

    path: of a PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF, JPEG 2000 or PNM file.

    Raises: ImageError naming the file when it is missing, damaged, cut off, animated, too large, or of a kind that would
        not be read right. UsageError for what is no path.
    """
    path = as_path(path, "read_image")
    try:
        data = np.frombuffer(read_regular(path), np.uint8)
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    return _decoded(data, str(path))


def file_lost_much(path: Path) -> bool:
    """`lost_much` of a file; of what cannot be read it is not known, and reading it will tell."""
    try:
        with path.open("rb") as file:
            return lost_much(file.read(_HEAD))
    except OSError:
        return False


def lost_much(data: bytes | bytearray) -> bool:
    """Whether a JPEG has steps so coarse that a network that restores makes more of it than one for clean pictures.

    data: the file, or its beginning.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    from sr_deploy.pictures.formats import jpeg

    try:
        step = jpeg.mean_step(memoryview(data)[:_HEAD])
    except (ContainerError, struct.error, IndexError):
        return False
    return step is not None and step >= _COARSE_STEP


def decode_image(data: bytes | bytearray | memoryview, *, name: str = "image") -> Picture:
    """The picture in the bytes of an image file, turned upright.

    data: the whole file, of any format that `read_image` reads; it is not changed.
    name: what errors call it, such as the name of an upload.

    Raises: ImageError beginning with `name` when the bytes are damaged, cut off, animated, too large, or of a kind that would
        not be decoded right. UsageError for what are no bytes.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(
            f"decode_image: an object of type {type(data).__qualname__} is no encoded image; expected the bytes of a file, "
            "and read_image takes a path"
        )
    return _decoded(np.frombuffer(bytearray(data), np.uint8), name)


def _decoded(data: NDArray[np.uint8], name: str) -> Picture:
    """The picture in a file's bytes, which may be changed."""
    try:
        header = inspect(data.data)
        _refuse_several(header)
        if header.format == "tiff":
            from sr_deploy.pictures.formats import tiff

            tiff.prepare(data.data)
        with ThreadPoolExecutor(1, "checksums") as pool:
            verified = pool.submit(header.verify) if header.verify else None
            pixels, alpha = decode(data if header.decode is None else np.frombuffer(header.decode, np.uint8), header)
        if verified is not None:
            verified.result()
    except ContainerError as exc:
        raise ImageError(f"{name}: {exc}") from exc
    orientation = header.orientation or _orientation(header.exif, header.xmp)
    metadata, lost = _metadata(header, orientation)
    upright_alpha = None if alpha is None else turn_upright(alpha, orientation)
    bits = header.bits if header.bits not in (8, 16) else None
    return Picture(turn_upright(pixels, orientation), upright_alpha, metadata, header.format, lost, bits)


def _metadata(header: Header, orientation: int) -> tuple[Metadata, tuple[str, ...]]:
    """What is kept of what the file says, as it is true of the upright picture, and what is not."""
    if not (header.exif or header.xmp or header.density or header.geo):
        return Metadata(icc=header.icc, colorimetry=header.colorimetry), tuple(dict.fromkeys(header.lost))
    from sr_deploy.pictures.formats.density import of_exif
    from sr_deploy.pictures.formats.exif import upright_exif, upright_xmp
    from sr_deploy.pictures.formats.xmp import without_promises, without_thumbnails

    turned, lost, xmp = orientation != 1, header.lost, header.xmp
    if xmp:
        xmp, promised = without_promises(upright_xmp(without_thumbnails(xmp) if turned else xmp))
        lost = [*promised, *(what for what in lost if not promised or what != "further pictures")]
    if turned and header.geo:
        lost.append("GeoTIFF tags")
    dots = header.density or of_exif(header.exif)
    metadata = Metadata(
        upright_exif(header.exif, turned=turned) if header.exif else None,
        header.icc,
        xmp or None,
        header.colorimetry,
        dots.turned() if dots and orientation > 4 else dots,
        () if turned else header.geo,
    )
    return metadata, tuple(dict.fromkeys(lost))


def _refuse_several(header: Header) -> None:
    if header.frames < 2:
        return
    if header.format == "tiff":
        raise ContainerError(f"the TIFF holds {header.frames} pages; split it into one file per page")
    raise ContainerError(
        f"it is an animation of {header.frames} frames; give it as a video, or extract its frames into one PNG each"
    )


def write_image(
    path: str | os.PathLike[str], image: Picture | Array, *, quality: int | None = None, strip_metadata: bool = False
) -> tuple[str, ...]:
    """Write an image in the format of the suffix; returns what the format could not hold, empty when it held everything.

    The file appears only when it is complete, and replaces an older one. PNG, TIFF and BMP are lossless, WebP is unless
    `quality` is given; without it JPEG takes 95 and AVIF 90. Deeper samples than the format holds are rounded, float is clipped
    to [0, 1], NaN becomes 0. The notes are of '16-bit depth', '32-bit float', 'EXIF', 'ICC profile', 'XMP', 'GeoTIFF
    tags', 'dots per inch' and the color space.

    path: ends in .png, .jpg, .jpeg, .webp, .tif, .tiff, .avif or .bmp.
    image: a Picture, or an array (H,W) or (H,W,C) with C 1 (gray), 3 (RGB), 2 or 4 (with alpha last); uint8, uint16 or float32.
    quality: 1 to 100, for the lossy formats.
    strip_metadata: leave EXIF, color profile and XMP out.

    Raises: ImageError for an unknown suffix, alpha in a JPEG, a picture too large for the format, and when the disk refuses.
        UsageError for a quality out of range, and for what is no image or no path.
    """
    path = as_path(path, "write_image")
    suffix = check_suffix(path)
    if kind := odd_kind(path):
        raise ImageError(f"{path}: cannot be written, it is {kind}; choose another name")
    source = _source(as_picture(image, "written"), quality, strip_metadata)
    try:
        with growing(path) as file:
            _encode(file, suffix, source, str(path))
    except OSError as exc:
        raise ImageError(f"{path}: cannot be written ({exc.strerror or exc}); free space or choose another folder") from exc
    return tuple(source.notes)


def encode_image(image: Picture | Array, format: str, *, quality: int | None = None, strip_metadata: bool = False) -> bytes:
    """The bytes of an image file, as `write_image` writes them.

    image: as for `write_image`.
    format: 'png', 'jpeg', 'webp', 'tiff', 'avif' or 'bmp', or a suffix of them, such as '.jpg'.
    quality: 1 to 100, for the lossy formats.
    strip_metadata: leave EXIF, color profile and XMP out.

    Raises: ImageError for alpha in a JPEG and a picture too large for the format. UsageError for an unknown format, a quality
        out of range, and for what is no image.
    """
    suffix = f".{format.lower().removeprefix('.')}" if isinstance(format, str) else ""
    if suffix not in ENCODERS:
        known = ", ".join(sorted(known[1:] for known in ENCODERS))
        raise UsageError(f"encode_image: no format {format!r}; expected one of {known}")
    file = io.BytesIO()
    _encode(file, suffix, _source(as_picture(image, "written"), quality, strip_metadata), "encode_image")
    return file.getvalue()


def check_suffix(path: Path) -> str:
    """The suffix of a path that `write_image` can write, in lower case.

    Raises: ImageError naming those that it can.
    """
    suffix = path.suffix.lower()
    if suffix not in ENCODERS:
        raise ImageError(f"{path}: cannot write '{path.suffix}'; expected one of {', '.join(sorted(ENCODERS))}")
    return suffix


def check_target(path: Path, picture: Picture, height: int, width: int) -> None:
    """Make sure, before a picture is upscaled to that size, that the file can hold it.

    Raises: ImageError for a picture that its format cannot hold, by size or for its transparency; as `check_suffix`.
    """
    try:
        check(check_suffix(path), height, width, picture.pixels, picture.alpha)
    except ContainerError as exc:
        raise ImageError(f"{path}: {exc}") from exc


def _encode(file: BinaryIO, suffix: str, source: EncoderInput, name: str) -> None:
    try:
        encode(file, suffix, source)
    except ContainerError as exc:
        raise ImageError(f"{name}: {exc}") from exc
    except (cv2.error, MemoryError) as exc:
        reason = getattr(exc, "err", "") or "not enough memory"
        raise ImageError(f"{name}: cannot be encoded ({reason}); write .png instead, which needs the least memory") from exc


def _source(picture: Picture, quality: int | None, strip_metadata: bool) -> EncoderInput:
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise UsageError(f"quality {quality} is out of range; expected 1 to 100")
    height, width = picture.pixels.shape[:2]
    metadata = Metadata() if strip_metadata else _upright(picture.metadata, (height, width))
    return EncoderInput(
        *(picture.pixels, picture.alpha, metadata.exif, metadata.icc, metadata.xmp, quality, []),
        colors=metadata.colorimetry,
        dots=metadata.density,
        geo=metadata.geo,
        bits=picture.bits or 16,
    )


def _orientation(exif: bytes | None, xmp: bytes | None) -> int:
    if not exif and not xmp:
        return 1
    from sr_deploy.pictures.formats.exif import exif_orientation, xmp_orientation

    return exif_orientation(exif) or xmp_orientation(xmp) or 1


def _upright(metadata: Metadata, size: tuple[int, int]) -> Metadata:
    """The metadata of the picture turned upright, of that (height, width)."""
    if not metadata.exif and not metadata.xmp:
        return metadata
    from sr_deploy.pictures.formats.exif import upright_exif, upright_xmp

    exif = upright_exif(metadata.exif, size) if metadata.exif else None
    return replace(metadata, exif=exif, xmp=upright_xmp(metadata.xmp) if metadata.xmp else None)


def is_whole(path: Path) -> bool:
    """Whether the file is an image whose container is complete to its end; its pixels are not decoded."""
    try:
        inspect(memoryview(read_regular(path)), deep=False)
    except (OSError, ContainerError):
        return False
    return True


def names_stream(path: Path) -> bool:
    """Whether it is no file: `-` is a pipe, and frame_%06d.png stands for many pictures."""
    pattern = NUMBER.search(path.name) and path.suffix.lower() in READABLE_SUFFIXES
    return path == PIPE or (bool(pattern) and not path.exists())


def is_animated(path: Path) -> bool:
    """Whether the file is an image of several frames; False for what cannot be read."""
    try:
        if not may_move(memoryview(read_regular(path, _HEAD))):
            return False
        return inspect(memoryview(read_regular(path)), deep=False).frames > 1
    except (OSError, ContainerError):
        return False
