"""Image files to arrays and metadata, and back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError

READABLE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm"}
)
WRITABLE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif"})


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture, as the bytes that it was said in."""

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
    """Read an image file, upright.

    Raises: ImageError naming the file when it cannot be read right.
    """
    data = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ImageError(f"{path}: cannot be decoded")
    if image.ndim == 2:
        return Picture(image[..., None])
    alpha = np.ascontiguousarray(image[..., 3]) if image.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(image[..., 2::-1]), alpha)


def write_image(path: Path, picture: Picture, *, quality: int | None = None, strip_metadata: bool = False) -> tuple[str, ...]:
    """Write a picture in the format of the suffix; returns what the format could not hold, empty when it held everything.

    The file appears only when it is complete.

    Raises: ImageError for an unknown suffix, for alpha in a format without it, and when the disk refuses.
    """
    image = picture.pixels[..., ::-1] if picture.alpha is None else np.dstack([picture.pixels[..., ::-1], picture.alpha])
    _, data = cv2.imencode(path.suffix, image)
    part = path.with_name(path.name + ".part")
    data.tofile(part)
    os.replace(part, path)
    return ()


def is_whole(path: Path) -> bool:
    """Whether the file exists and its container is complete."""
    return path.is_file()


def resample(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The array at (height, width): averaged when shrinking, Lanczos when growing; same dtype."""
    result: NDArray[Any] = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return result.reshape(*size, *array.shape[2:])
