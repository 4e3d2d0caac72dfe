"""Image files to arrays and metadata, and back."""

from __future__ import annotations

import mmap
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures.formats import tiff
from sr_deploy.pictures.formats.containers import inspect
from sr_deploy.pictures.formats.decode import decode, turn_upright
from sr_deploy.pictures.formats.encode import ENCODERS, Source, encode
from sr_deploy.pictures.formats.exif import exif_orientation, upright_exif, upright_xmp, xmp_orientation
from sr_deploy.pictures.formats.header import ContainerError, Header
from sr_deploy.pictures.resample import resample

__all__ = [
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Metadata",
    "Picture",
    "is_whole",
    "read_image",
    "resample",
    "write_image",
]

# What OpenCV would log becomes the text of our errors.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

WRITABLE_SUFFIXES = frozenset(ENCODERS)
READABLE_SUFFIXES = WRITABLE_SUFFIXES | {".jpe", ".jfif", ".gif", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm"}


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture, as the bytes that it was said in.

    `exif` begins with its TIFF header; the orientation in `exif` and `xmp` is 1.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    pixels: (H, W, C), C = 3 is RGB and 1 gray; uint8, uint16, or float32 with white at 1.0; contiguous.
    alpha: (H, W), the same dtype, straight (not premultiplied), or None. `format` is what the file held, whatever its name.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = Metadata()
    format: str = ""


def read_image(path: Path) -> Picture:
    """Read an image file, turned upright; its content decides the format, not its name.

    Raises: ImageError naming the file when it is missing, damaged, cut off, animated, too large, or of a kind that would
        not be read right.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    try:
        header = inspect(data.data)
        _refuse_several(header)
        if header.format == "tiff":
            tiff.prepare(data.data)
        pixels, alpha = decode(data if header.decode is None else np.frombuffer(header.decode, np.uint8), header)
    except ContainerError as exc:
        raise ImageError(f"{path}: {exc}") from exc
    orientation = header.orientation or exif_orientation(header.exif) or xmp_orientation(header.xmp) or 1
    metadata = Metadata(
        upright_exif(header.exif) if header.exif else None, header.icc, upright_xmp(header.xmp) if header.xmp else None
    )
    upright_alpha = None if alpha is None else turn_upright(alpha, orientation)
    return Picture(turn_upright(pixels, orientation), upright_alpha, metadata, header.format)


def _refuse_several(header: Header) -> None:
    if header.frames < 2:
        return
    if header.format == "tiff":
        raise ContainerError(f"the TIFF holds {header.frames} pages; split it into one file per page")
    raise ContainerError(
        f"it is an animation of {header.frames} frames; give it as a video, or extract its frames into one PNG each"
    )


def write_image(path: Path, picture: Picture, *, quality: int | None = None, strip_metadata: bool = False) -> tuple[str, ...]:
    """Write a picture in the format of the suffix; returns what the format could not hold, empty when it held everything.

    The file appears only when it is complete, and replaces an older one. PNG, TIFF and BMP are lossless, WebP is unless
    `quality` (1..100) is given; without it JPEG takes 95 and AVIF 90. Deeper samples than the format holds are rounded, float
    is clipped to [0, 1]. The notes are of '16-bit depth', '32-bit float', 'EXIF', 'ICC profile', 'XMP'.

    Raises: ImageError for an unknown suffix, alpha in a JPEG, a picture too large for the format, and when the disk refuses.
        UsageError for a quality out of range.
    """
    suffix = path.suffix.lower()
    if suffix not in ENCODERS:
        raise ImageError(f"{path}: cannot write '{path.suffix}'; expected one of {', '.join(sorted(ENCODERS))}")
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is out of range; expected 1 to 100")
    source = _source(picture, quality, strip_metadata)
    # Short, so that any name that fits the file system still does; unique, so that two writers never share it.
    part = path.with_name(f"{path.stem[:40]}.{os.getpid():x}-{secrets.token_hex(4)}.part")
    try:
        try:
            with part.open("xb") as file:
                encode(file, suffix, source)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except ContainerError as exc:
        raise ImageError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise ImageError(f"{path}: cannot be written ({exc.strerror or exc}); free space or choose another folder") from exc
    except (cv2.error, MemoryError) as exc:
        reason = getattr(exc, "err", "") or "not enough memory"
        raise ImageError(f"{path}: cannot be encoded ({reason}); write .png instead, which needs the least memory") from exc
    return tuple(source.notes)


def _source(picture: Picture, quality: int | None, strip_metadata: bool) -> Source:
    metadata = Metadata() if strip_metadata else picture.metadata
    height, width = picture.pixels.shape[:2]
    exif = upright_exif(metadata.exif, (height, width)) if metadata.exif else None
    xmp = upright_xmp(metadata.xmp) if metadata.xmp else None
    return Source(picture.pixels, picture.alpha, exif, metadata.icc, xmp, quality, [])


def is_whole(path: Path) -> bool:
    """Whether the file is an image whose container is complete to its end; its pixels are not decoded."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        inspect(memoryview(data), deep=False)
    except (OSError, ValueError, ContainerError):
        return False
    return True
