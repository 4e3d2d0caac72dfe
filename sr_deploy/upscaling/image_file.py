"""One image file upscaled into another."""

from __future__ import annotations

import os
from pathlib import Path

from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures.image import check_suffix, check_target, file_lost_much, read_image, write_image
from sr_deploy.pictures.picture import Picture, as_path
from sr_deploy.upscaling.image_upscaler import ImageUpscaler
from sr_deploy.upscaling.upscaler import Upscaler


def upscale_image(
    source: str | os.PathLike[str], target: str | os.PathLike[str], upscaler: ImageUpscaler | None = None
) -> tuple[str, ...]:
    """Upscale an image file into another; returns what was lost, because its format cannot hold it or it is not read.

    Gray, depth, alpha, color profile, EXIF and XMP are kept; orientation is applied. The target appears only when it is
    complete, and replaces an older one.

    source: path of an image, as for `read_image`.
    target: path whose suffix decides the format, as for `write_image`; its folder must be there.
    upscaler: an Upscaler or MaskedUpscaler, which stays open; None opens `fast`, x4, for this image alone, or
        `photo-fast` for one that lost much to JPEG.

    Raises: ImageError for a source that cannot be read and a target that cannot be written. UsageError for what is no path or
        no upscaler, and where target and source are one file. As the upscaler: UnhealthyOutputError, EngineError.
    """
    if upscaler is not None and not isinstance(upscaler, ImageUpscaler):
        raise UsageError(
            f"upscale_image: {upscaler!r} is no upscaler; expected an Upscaler or a MaskedUpscaler, such as Upscaler('fast-x2')"
        )
    source, target = as_path(source, "upscale_image"), as_path(target, "upscale_image")
    check_suffix(target)
    picture = read_image(source)
    _check_place(source, target)
    if upscaler is not None:
        return _upscale_into(target, picture, upscaler)
    with Upscaler("photo-fast" if file_lost_much(source) else "fast") as upscaler:
        return _upscale_into(target, picture, upscaler)


def _upscale_into(target: Path, picture: Picture, upscaler: ImageUpscaler) -> tuple[str, ...]:
    height, width = (side * upscaler.scale for side in picture.pixels.shape[:2])
    check_target(target, picture, height, width)
    return picture.lost + write_image(target, upscaler.upscale_picture(picture))


def _check_place(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise ImageError(f"{target}: there is no folder {target.parent}; make it first, or choose another one")
    if target.exists() and target.samefile(source):
        raise UsageError(f"upscale_image: {target} is the source itself, which would be lost; give another name")
