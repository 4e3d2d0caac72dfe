"""Image formats: what a file is, whether it is whole, and what it holds; OpenCV turns the samples into pixels.

Here is what they share: what an image file says about itself before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sr_deploy.pictures.formats.colorimetry import Colorimetry
    from sr_deploy.pictures.formats.density import Density
    from sr_deploy.pictures.formats.exif import Field

# 2 ** 30 pixels is also where OpenCV stops.
MAX_PIXELS = 1 << 30


class ContainerError(Exception):
    """A file is damaged or holds what is not supported; the message says what and what to do, not which file."""


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
