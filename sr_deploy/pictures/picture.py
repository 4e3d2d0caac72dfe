"""A picture in memory, and which arrays are images; what is none is refused with what to give instead."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import UsageError

if TYPE_CHECKING:
    from sr_deploy.arrays import Array
    from sr_deploy.pictures.formats.colorimetry import Colorimetry
    from sr_deploy.pictures.formats.density import Density
    from sr_deploy.pictures.formats.exif import Field

Use = Literal["upscaled", "written"]

_WANTED = "expected a numpy array (H,W) or (H,W,C) with 1 to 4 channels, RGB"
_PLAIN_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
"""Modes of Pillow whose arrays hold what an image of ours does; of others they hold indices, inks or other ranges."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture, as the bytes that it was said in; the orientation in `exif` and `xmp` is 1.

    exif: begins with its TIFF header, or None.
    icc: the color profile, or None.
    xmp: or None.
    colorimetry: what is said of the colors by numbers, or None.
    density: dots per inch, or None.
    geo: the tags of GeoTIFF.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    colorimetry: Colorimetry | None = None
    density: Density | None = None
    geo: tuple[Field, ...] = ()

    def scaled(self, down: float, across: float) -> Metadata:
        """Of the picture in another size; dots per inch stay.

        down: factor of its height.
        across: factor of its width.
        """
        if not self.geo:
            return self
        from sr_deploy.pictures.formats import geotiff

        return replace(self, geo=geotiff.scaled(self.geo, down, across))


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    pixels: (H,W,C), C = 3 is RGB and 1 gray; uint8, uint16, or float32 with white at 1.0; contiguous.
    alpha: (H,W), the same dtype, straight (not premultiplied), or None.
    metadata: EXIF, color profile and XMP.
    format: what the file held, whatever its name, such as 'jpeg'; empty for a picture that was not read.
    lost: what else the file held, in words, such as 'gain map'.
    bits: of the samples in the file where these are stretched to 16, such as 10; else None.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = Metadata()
    format: str = ""
    lost: tuple[str, ...] = ()
    bits: int | None = None

    @property
    def hidden(self) -> NDArray[np.bool_] | None:
        """(H,W), where it holds no data; None where all of it is data."""
        if self.pixels.dtype != np.float32 and not self.metadata.geo:
            return None
        from sr_deploy.pictures.formats import geotiff
        from sr_deploy.pictures.nodata import without_data

        return without_data(self.pixels, geotiff.nodata(self.metadata.geo))


def planes_of(image: object, use: Use) -> Array:
    """The image as (H,W,C), C 1 to 4, a view of the array.

    image: (H,W) or (H,W,C), uint8, uint16 or float32, no side 0. use: what cannot be done otherwise, for the message.

    Raises: UsageError for everything else.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(f"{_no_array(image)} cannot be {use}; {_WANTED}: {_instead(image)}")
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or planes.shape[2] not in (1, 2, 3, 4) or 0 in planes.shape:
        raise UsageError(f"an image of shape {image.shape} cannot be {use}; expected (H,W), or (H,W,C) with 1 to 4 channels")
    if planes.dtype not in (np.uint8, np.uint16, np.float32):
        raise UsageError(f"an image of {image.dtype} cannot be {use}; expected uint8, uint16 or float32 in [0,1]")
    return planes


def as_picture(image: object, use: Use) -> Picture:
    """The Picture itself, or that of an array as `planes_of` takes it, whose last of 2 or 4 channels is alpha.

    Raises: UsageError for other arrays, and for a Picture whose arrays are not as its docstring says.
    """
    if isinstance(image, Picture):
        _check(image, use)
        return image
    planes = planes_of(image, use)
    if planes.shape[2] in (1, 3):
        return Picture(np.ascontiguousarray(planes))
    return Picture(np.ascontiguousarray(planes[..., :-1]), np.ascontiguousarray(planes[..., -1]))


def _check(picture: Picture, use: Use) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if planes_of(pixels, use).shape[2] not in (1, 3) or pixels.ndim != 3:
        raise UsageError(f"a Picture with pixels of shape {pixels.shape} cannot be {use}; expected (H,W,3) RGB or (H,W,1) gray")
    if alpha is not None and (planes_of(alpha, use).dtype, alpha.shape) != (pixels.dtype, pixels.shape[:2]):
        raise UsageError(
            f"a Picture with alpha of {alpha.dtype} {alpha.shape} cannot be {use}; expected {pixels.dtype} {pixels.shape[:2]}, "
            "as its pixels are"
        )


def as_path(path: object, caller: str) -> Path:
    """The path that a caller of the function of that name gave.

    Raises: UsageError for what is none.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in (text := os.fspath(path)) or not text:
        shown = repr(path) if isinstance(path, str) else _no_array(path)
        raise UsageError(f"{caller}: {shown} is no path; expected a str or a pathlib.Path that names a file")
    return Path(text)


def _is_of_pillow(image: object) -> bool:
    return any(kind.__module__.startswith("PIL.") for kind in type(image).__mro__)


def _no_array(image: object) -> str:
    if image is None:
        return "None"
    if isinstance(image, str | os.PathLike):
        return f"the path '{image}'"
    if isinstance(image, Picture):
        return "a Picture"
    if _is_of_pillow(image):
        return "a PIL image"
    return f"an object of type {type(image).__qualname__}"


def _instead(image: object) -> str:
    if image is None:
        return "sr_deploy.read_image(path).pixels reads one, and cv2.imread gives None for a file that it cannot read"
    if isinstance(image, str | os.PathLike):
        return "read the file first, sr_deploy.read_image(path).pixels, or give it to sr_deploy.upscale_image"
    if isinstance(image, bytes | bytearray | memoryview):
        return "decode them first, sr_deploy.decode_image(data).pixels"
    if isinstance(image, Picture):
        return "give its pixels, or call upscale_picture"
    if _is_of_pillow(image):
        plain = getattr(image, "mode", "") in _PLAIN_MODES
        return "numpy.asarray(image)" if plain else 'numpy.asarray(image.convert("RGB"))'
    return "numpy.asarray(image) gives one of most objects; `on_device` takes arrays that lie on a GPU"
