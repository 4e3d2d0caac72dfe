"""Encoded bytes to RGB or gray arrays: through OpenCV, whose complaints are heard; WebP through Pillow, it has none there."""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import first_line
from sr_deploy.pictures.formats import ContainerError, Header

# libjpeg and libpng report damage on the C-level stderr only, libtiff and OpenJPEG in OpenCV's log; most of them then deliver
# gray or black pixels as if nothing had happened.
_COMPLAINTS = re.compile(
    rb"(?:libpng (?:warning|error): |Corrupt JPEG data: |Premature end of JPEG|Invalid SOS param|Unknown Adobe|"
    rb"Inconsistent progression|Warning: unknown JFIF|Unsupported marker)[^\n]*\n"
    rb"|\[ ?(?:WARN|ERROR):[^\n]*(?:grfmt_tiff|grfmt_jpeg2000|loadsave)[^\n]*\n(?:[> \t][^\n]*\n|\n)*"
)
_DAMAGE = re.compile(
    rb"libpng error: ([^\n]*)|(?:Corrupt JPEG data: |Premature)((?:premature|bad|found| end)[^\n]*)"
    rb"|errorLogCallback OpenJPEG\d*: ([^\n]*)|warningLogCallback OpenJPEG\d*: ([^\n]*(?:not end|runcate|orrupt|enough)[^\n]*)"
    rb"|TIFF_Error ([^\n]*)|TIFF_Warning ((?:Fax|CCITT|LZW|PackBits|ZIP|JPEGLib: (?:Corrupt|Premature)|TIFFFetchStrip)[^\n]*)"
)
_STDERR = threading.Lock()
_ROWS = 256
_UPRIGHT: dict[int, tuple[bool, bool, bool]] = {
    # orientation: (transpose, then flip rows, then flip columns)
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def decode(data: NDArray[np.uint8], header: Header) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Pixels (H, W, 3) RGB or (H, W, 1) gray, and straight alpha (H, W) or None, as stored, not yet upright.

    Raises: ContainerError when the decoder refuses, complains of damage, or gives something else than the header says.
    """
    webp = header.format == "webp"
    image, complaint = _decode_webp(data) if webp else _imdecode(data, logged=header.format in ("tiff", "jp2"))
    if complaint:
        raise ContainerError(f"its pixels are damaged ({complaint}); get a good copy of the file")
    if image is None:
        raise ContainerError("its pixels cannot be decoded, the file is damaged or of a rare kind; convert it to PNG")
    if image.shape[:2] != (header.height, header.width):
        raise ContainerError(
            f"its header claims {header.width}x{header.height} pixels, the decoder found {image.shape[1]}x{image.shape[0]}; "
            "get a good copy of the file"
        )
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ContainerError(f"it holds {image.dtype} samples, expected 8 or 16-bit integers or floats; convert it")
    pixels, alpha = _split(image, header)
    if header.bits_565:
        _fill_low_bits(pixels, header.bits_565)
    if header.bits is not None and header.bits not in (8, 16):
        if pixels.dtype != np.uint16 or not 8 < header.bits < 16:
            raise ContainerError(f"a picture of {header.bits} bits per sample is not supported; convert it to PNG")
        for plane in (pixels,) if alpha is None else (pixels, alpha):
            _stretch(plane, header.bits)
    if header.color_key is not None:
        hidden = (pixels == np.array(header.color_key, pixels.dtype)).all(axis=2)
        alpha = np.where(hidden, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    if alpha is not None and header.alpha == "premultiplied":
        _unpremultiply(pixels, alpha)
    return pixels, alpha


def turn_upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The array, (H, W) or (H, W, C), as the EXIF orientation wants it seen; contiguous."""
    transpose, flip_rows, flip_columns = _UPRIGHT.get(orientation, (False, False, False))
    if transpose:
        array = array.swapaxes(0, 1)
    array = array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return np.ascontiguousarray(array)


def _imdecode(data: NDArray[np.uint8], *, logged: bool) -> tuple[NDArray[Any] | None, str]:
    """The decoder's array and its complaint of damage; `logged`: the decoder complains in OpenCV's log."""
    import cv2

    try:
        with _listening() as heard, _log_of_opencv() if logged else nullcontext():
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        raise ContainerError(f"OpenCV cannot decode it ({exc.err}); get a good copy of the file") from exc
    except MemoryError as exc:
        raise ContainerError("there is not enough memory to decode it; close other programs or use a smaller picture") from exc
    found = _DAMAGE.search(heard)
    return image, next(filter(None, found.groups())).decode("ascii", "replace").strip() if found else ""


def _decode_webp(data: NDArray[np.uint8]) -> tuple[NDArray[Any] | None, str]:
    """As `_imdecode`. OpenCV delivers what libwebp had when it gave up."""
    import cv2
    from PIL.Image import DecompressionBombError
    from PIL.WebPImagePlugin import WebPImageFile

    try:
        with WebPImageFile(io.BytesIO(data.tobytes())) as picture:
            image = np.array(picture)
    except DecompressionBombError as exc:
        raise ContainerError("a WebP of more than 178 million pixels is not supported; convert it to PNG") from exc
    except (OSError, SyntaxError, ValueError) as exc:
        return None, first_line(exc)
    return cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR, dst=image), ""


@contextmanager
def _log_of_opencv() -> Iterator[None]:
    """Let OpenCV log warnings."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


@contextmanager
def _listening() -> Iterator[bytearray]:
    """Collect the decoders' complaints; what other threads write to stderr meanwhile is passed on afterwards."""
    heard = bytearray()
    with _STDERR, _scratch_file() as messages:
        try:
            saved: int | None = os.dup(2)
        except OSError:  # a process without stderr
            saved = None
        os.dup2(messages.fileno(), 2)
        try:
            yield heard
        finally:
            if saved is None:
                os.close(2)
            else:
                os.dup2(saved, 2)
                os.close(saved)
            messages.seek(0)
            heard += messages.read()
            if saved is not None:
                os.write(2, _COMPLAINTS.sub(b"", heard))


def _scratch_file() -> BinaryIO:
    """In memory where the system has such files, so that no disk needs room for it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("complaints"), "w+b")
    return cast("BinaryIO", tempfile.TemporaryFile())


def _split(image: NDArray[Any], header: Header) -> tuple[NDArray[Any], NDArray[Any] | None]:
    import cv2

    if image.ndim == 2:
        return image[..., None], None
    if image.shape[2] == 3 and not header.gray:
        # In strips, since a second whole array of a large picture may not fit.
        for start in range(0, image.shape[0], _ROWS):
            image[start : start + _ROWS] = cv2.cvtColor(image[start : start + _ROWS], cv2.COLOR_BGR2RGB)
        return image, None
    alpha = None
    if image.shape[2] == 4 and header.alpha != "none":
        alpha = np.ascontiguousarray(image[..., 3])
    if header.gray or image.shape[2] < 3:
        return np.ascontiguousarray(image[..., :1]), alpha
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB), alpha


def _fill_low_bits(pixels: NDArray[Any], bits: tuple[int, int, int]) -> None:
    """Make white 255: the decoder leaves the bits empty that a 5 or 6-bit sample lacks."""
    for channel, count in enumerate(bits):
        plane = pixels[..., channel]
        plane |= plane >> count


def _stretch(plane: NDArray[Any], bits: int) -> None:
    """Scale samples of 9 to 15 bits to 16, in place."""
    top = (1 << bits) - 1
    for start in range(0, plane.shape[0], _ROWS):
        rows = np.minimum(plane[start : start + _ROWS].astype(np.uint32), top)
        plane[start : start + _ROWS] = (rows * 65535 + top // 2) // top


def _unpremultiply(pixels: NDArray[Any], alpha: NDArray[Any]) -> None:
    """Divide the colors by alpha, in place; under alpha 0 they become 0."""
    is_float = pixels.dtype == np.float32
    top = 1.0 if is_float else float(np.iinfo(pixels.dtype).max)
    for start in range(0, pixels.shape[0], _ROWS):
        rows = pixels[start : start + _ROWS].astype(np.float64)
        weight = alpha[start : start + _ROWS, :, None].astype(np.float64)
        straight = np.divide(rows * top, weight, out=np.zeros_like(rows), where=weight > 0)
        pixels[start : start + _ROWS] = straight if is_float else np.minimum(np.floor(straight + 0.5), top)
