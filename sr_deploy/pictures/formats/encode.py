"""Pictures to encoded files: what every format can hold, and what is said about the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sr_deploy.pictures.formats import ContainerError, png

if TYPE_CHECKING:
    from sr_deploy.pictures.formats.colorimetry import Colorimetry
    from sr_deploy.pictures.formats.density import Density
    from sr_deploy.pictures.formats.exif import Field

_ROWS = 128
JPEG_QUALITY = 95
AVIF_QUALITY = 90
_SIDES = {
    ".jpg": ("JPEG", 65535),
    ".jpeg": ("JPEG", 65535),
    ".webp": ("WebP", 16383),
    ".avif": ("AVIF", 65535),
    ".bmp": ("BMP", 65535),
}


@dataclass
class EncoderInput:
    """What is to be written; `notes` collects what the format could not hold.

    pixels: (H, W, 3) RGB or (H, W, 1) gray, uint8, uint16 or float32; alpha: (H, W) of the same dtype or None.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None
    quality: int | None
    notes: list[str]
    colors: Colorimetry | None = None
    dots: Density | None = None
    geo: tuple[Field, ...] = ()
    bits: int = 16
    gray_as_rgb: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.pixels.shape
        return height, width, (3 if self.gray_as_rgb else channels) + (self.alpha is not None)

    def rows(self, start: int, stop: int, dtype: DTypeLike, top: int | None = None) -> NDArray[Any]:
        """(stop - start, W, C) with alpha as the last channel, in `dtype`; white at `top` instead of at its full range."""
        block = self.pixels[start:stop]
        if self.gray_as_rgb and block.shape[2] == 1:
            block = np.repeat(block, 3, axis=2)
        if self.alpha is not None:
            block = np.concatenate([block, self.alpha[start:stop, :, None]], axis=2)
        if block.dtype == dtype and top is None:
            return block
        from sr_deploy.pictures.color import from_float, to_float

        if top is not None:
            return np.clip(np.rint(np.nan_to_num(to_float(block)) * top), 0, top).astype(dtype)
        return from_float(to_float(block), dtype)

    def for_opencv(self, dtype: DTypeLike, top: int | None = None) -> NDArray[Any]:
        """The whole picture as OpenCV wants it: (H, W, 1) gray, or (H, W, 3 or 4) BGR(A)."""
        import cv2

        self.gray_as_rgb |= self.shape[2] == 2
        height, _, channels = self.shape
        if channels == 3 and self.pixels.dtype == dtype and self.pixels.shape[2] == 3 and top is None:
            return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2BGR)
        result = np.empty(self.shape, dtype)
        for start in range(0, height, _ROWS):
            block = self.rows(start, min(start + _ROWS, height), dtype, top)
            result[start : start + _ROWS] = block if channels == 1 else block[..., [2, 1, 0, 3][:channels]]
        return result

    def drop(self, *names: str) -> None:
        """Leave out metadata that the format cannot hold, and note what there was."""
        for name in names:
            if getattr(self, name):
                self.notes.append(LABELS[name])
                setattr(self, name, None)

    def drop_depth(self, kept: int = 8) -> None:
        """Note that more bits than are kept are rounded."""
        if self.pixels.dtype == np.float32:
            self.notes.append("32-bit float")
        elif self.pixels.dtype == np.uint16 and self.bits > kept:
            self.notes.append(f"{self.bits}-bit depth")

    def drop_foreign_profile(self, space: bytes) -> None:
        """Leave out a profile of another color space than `space`: it would turn the colors wrong."""
        if self.icc and self.icc[16:20] != space:
            self.drop("icc")

    def drop_colors(self) -> None:
        """Note that the format cannot say what the colors are; a profile says it too."""
        if self.colors and not self.colors.is_usual and not self.icc:
            self.notes.append(self.colors.words)

    def dots_into_exif(self) -> None:
        """Say the dots per inch in EXIF, for formats that say it nowhere else."""
        if not self.dots:
            return
        from sr_deploy.pictures.formats.density import of_exif
        from sr_deploy.pictures.formats.exif import exif_block

        if not self.exif:
            self.exif = exif_block(self.dots.fields)
        elif of_exif(self.exif) is None:
            self.drop("dots")


LABELS = {"exif": "EXIF", "icc": "ICC profile", "xmp": "XMP", "geo": "GeoTIFF tags", "dots": "dots per inch"}


def encode(file: BinaryIO, suffix: str, source: EncoderInput) -> None:
    """Write the picture in the format of the suffix.

    Raises: ContainerError when the format cannot hold the picture.
    """
    check(suffix, source.shape[0], source.shape[1], source.pixels, source.alpha)
    source.drop_foreign_profile(b"GRAY" if source.pixels.shape[2] == 1 else b"RGB ")
    if suffix not in (".tif", ".tiff"):
        source.drop("geo")
    if suffix not in (".png", ".avif"):
        source.drop_colors()
    ENCODERS[suffix](file, source)


def check(suffix: str, height: int, width: int, pixels: NDArray[Any], alpha: NDArray[Any] | None) -> None:
    """Make sure that the format of the suffix can hold a picture like this one at that size.

    Raises: ContainerError.
    """
    name, limit = _SIDES.get(suffix, ("", 0))
    if limit and max(height, width) > limit:
        raise ContainerError(f"{width}x{height} pixels do not fit into {name}, whose limit is {limit}; write .png instead")
    if suffix == ".png":
        png.check_size(height, width)
    if suffix in (".tif", ".tiff"):
        from sr_deploy.pictures.formats import tiff

        tiff.check_size(height, width, (pixels.shape[2] if alpha is None else 4) * pixels.itemsize)
    if name == "JPEG" and alpha is not None and not _is_opaque(alpha):
        raise ContainerError("a JPEG cannot hold the picture's alpha; write .png, .webp or .tif instead")


def _is_opaque(alpha: NDArray[Any]) -> bool:
    opaque = 1.0 if alpha.dtype == np.float32 else np.iinfo(alpha.dtype).max
    return bool((alpha >= opaque).all())


def _png(file: BinaryIO, source: EncoderInput) -> None:
    deep = source.pixels.dtype != np.uint8
    if source.pixels.dtype == np.float32:
        source.notes.append("32-bit float")
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    png.write(
        file,
        lambda start, stop: source.rows(start, stop, dtype),
        source.shape,
        16 if deep else 8,
        exif=source.exif,
        icc=source.icc,
        xmp=source.xmp,
        colors=source.colors,
        dots=source.dots,
    )


def _tiff(file: BinaryIO, source: EncoderInput) -> None:
    from sr_deploy.pictures.formats import tiff

    dtype = source.pixels.dtype
    if source.shape[2] == 2:
        # Hardly any reader gets gray with alpha right: OpenCV drops the alpha, or fails.
        source.drop_foreign_profile(b"RGB ")
        source.gray_as_rgb = True
    tiff.write(
        file,
        lambda start, stop: source.rows(start, stop, dtype),
        source.shape,
        dtype,
        exif=source.exif,
        icc=source.icc,
        xmp=source.xmp,
        dots=source.dots,
        geo=source.geo,
    )


def _jpeg(file: BinaryIO, source: EncoderInput) -> None:
    import cv2

    from sr_deploy.pictures.formats import jpeg

    source.alpha = None
    source.drop_depth()
    head, left_out = jpeg.segments(source.exif, source.icc, source.xmp)
    source.notes.extend(left_out)
    # 4:4:4: the sharp colors are what the network was run for.
    parameters = [
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY if source.quality is None else source.quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    encoded = _imencode(".jpg", source.for_opencv(np.uint8), parameters, None)
    behind_jfif = 4 + int.from_bytes(encoded[4:6], "big") if bytes(encoded[2:4]) == b"\xff\xe0" else 2
    first = bytearray(encoded[:behind_jfif])
    if source.dots and not source.dots.put_into_jpeg(first):
        source.drop("dots")
    file.write(first)
    file.write(head)
    file.write(encoded[behind_jfif:])


def _webp(file: BinaryIO, source: EncoderInput) -> None:
    import cv2

    source.drop_depth()
    source.drop_foreign_profile(b"RGB ")
    source.gray_as_rgb = True
    source.dots_into_exif()
    lossless = [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
    parameters = lossless if source.quality is None else [cv2.IMWRITE_WEBP_QUALITY, source.quality]
    file.write(_imencode(".webp", source.for_opencv(np.uint8), parameters, source))


def _avif(file: BinaryIO, source: EncoderInput) -> None:
    import cv2

    source.drop_depth(kept=10)
    deep = source.pixels.dtype != np.uint8
    quality = AVIF_QUALITY if source.quality is None else source.quality
    parameters = [cv2.IMWRITE_AVIF_QUALITY, quality, cv2.IMWRITE_AVIF_DEPTH, 10 if deep else 8]
    image = source.for_opencv(np.uint16, 1023) if deep else source.for_opencv(np.uint8)
    source.dots_into_exif()
    encoded = bytearray(_imencode(".avif", image, parameters, source))
    if source.colors:
        from sr_deploy.pictures.formats.colorimetry import put_into_avif

        if not put_into_avif(encoded, source.colors):
            source.drop_colors()
    file.write(encoded)


def _bmp(file: BinaryIO, source: EncoderInput) -> None:
    source.drop_depth()
    source.drop("exif", "icc", "xmp")
    encoded = bytearray(_imencode(".bmp", source.for_opencv(np.uint8), [], None))
    if source.dots and not source.dots.put_into_bmp(encoded):
        source.drop("dots")
    file.write(encoded)


def _imencode(suffix: str, image: NDArray[Any], parameters: list[int], metadata: EncoderInput | None) -> memoryview:
    import cv2

    kinds, blocks = [], []
    if metadata is not None:
        for kind, block in (
            (cv2.IMAGE_METADATA_EXIF, metadata.exif),
            (cv2.IMAGE_METADATA_XMP, metadata.xmp),
            (cv2.IMAGE_METADATA_ICCP, metadata.icc),
        ):
            if block:
                kinds.append(kind)
                blocks.append(np.frombuffer(block, np.uint8))
    if kinds:
        done, encoded = cv2.imencodeWithMetadata(suffix, image, kinds, blocks, parameters)
    else:
        done, encoded = cv2.imencode(suffix, image, parameters)
    if not done:
        raise ContainerError(f"OpenCV cannot encode {image.shape[1]}x{image.shape[0]} pixels as {suffix}; write .png instead")
    view: memoryview = encoded.data
    return view


ENCODERS: dict[str, Callable[[BinaryIO, EncoderInput], None]] = {
    ".png": _png,
    ".jpg": _jpeg,
    ".jpeg": _jpeg,
    ".webp": _webp,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".avif": _avif,
    ".bmp": _bmp,
}

LOSSY_SUFFIXES = (".avif", ".jpeg", ".jpg", ".webp")
"""Those whose quality can be chosen."""
