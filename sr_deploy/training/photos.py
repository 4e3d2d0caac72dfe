"""Photos in memory: HR as it is in the files, LR by bicubic, and generated pictures that are like them."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.metrics import luma
from sr_deploy.pictures.image import READABLE_SUFFIXES
from sr_deploy.training.degradation import degrade
from sr_deploy.training.degradation.settings import Degradation
from sr_deploy.training.generated import GeneratedContent, generate

_GENERATED, _DEGRADED = 1 << 20, 1 << 21
"""Beside the seed, of what the pictures depend on that no stage has."""


@dataclass(frozen=True)
class Photo:
    """A photo in both resolutions: (H, W, C) uint8, RGB or Y, `hr` exactly `scale` times as large as `lr`."""

    name: str
    hr: Array
    lr: Array


def read_photos(folders: Sequence[str], scale: int, *, colors: int = 3, lr_folder: str = "") -> list[Photo]:
    """All photos of the folders, in the order of their names; LR from files that begin with the same stem if a folder is given.

    Raises: UsageError for a folder that is missing or holds no photo, or has no LR for one; ImageError for a damaged file.
    """
    files = [file for folder in folders for file in _files(Path(folder))]
    found = {} if not lr_folder else {file.stem: file for file in _files(Path(lr_folder))}

    def read(file: Path) -> Photo:
        return _photo(file, _lr_of(file, found, lr_folder, scale), scale, colors)

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(read, files))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def hold_out(photos: Sequence[Photo], number: int) -> tuple[list[Photo], list[Photo]]:
    """Photos to train on, and `number` of them, evenly spread, that are kept for validation.

    Raises: UsageError when none would be left to train on.
    """
    if number >= len(photos):
        raise UsageError(f"{len(photos)} photos cannot give {number} to validation; add photos or lower hold_out")
    kept = {(2 * index + 1) * len(photos) // (2 * number) for index in range(number)}
    chosen = [photo for index, photo in enumerate(photos) if index in kept]
    return [photo for index, photo in enumerate(photos) if index not in kept], chosen


def fingerprint(photos: Sequence[Photo]) -> str:
    """A checksum of all pixels."""
    crc = 0
    for photo in photos:
        crc = zlib.crc32(photo.lr.tobytes(), zlib.crc32(photo.hr.tobytes(), crc))
    return f"{crc:08x}"


def generated_photos(content: GeneratedContent, side: int, scale: int, *, colors: int, seed: int) -> list[Photo]:
    """Generated pictures of all kinds in turn, `side` pixels in height and width.

    A picture depends on its number and the seed alone.
    """

    def make(number: int) -> Photo:
        kind = content.kinds[number % len(content.kinds)]
        hr = generate(kind, side - side % scale, np.random.default_rng((seed, _GENERATED, number)))
        return Photo(f"{kind} {number}", _colored(hr, colors), _colored(_bicubic(hr, scale), colors))

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(make, range(content.pictures)))


def degraded_photos(photos: Sequence[Photo], settings: Degradation, seed: int) -> list[Photo]:
    """The photos with degraded LR; each depends on its place and the seed alone."""

    def make(number: int) -> Photo:
        photo, random = photos[number], np.random.default_rng((seed, _DEGRADED, number))
        return replace(photo, lr=degrade(photo.hr, photo.lr, settings, random).image)

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(make, range(len(photos))))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected a folder of photos")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READABLE_SUFFIXES and path.is_file())
    if not files:
        raise UsageError(f"{folder}: no photos in it; expected {', '.join(sorted(READABLE_SUFFIXES))}")
    return files


def _lr_of(file: Path, found: dict[str, Path], folder: str, scale: int) -> Array | None:
    if not folder:
        return None
    for stem in (file.stem, f"{file.stem}x{scale}", f"{file.stem}X{scale}"):
        if stem in found:
            return _decoded(found[stem])
    raise UsageError(f"{folder}: no LR image for {file.name}; expected {file.stem} or {file.stem}x{scale}")


def _photo(file: Path, lr: Array | None, scale: int, colors: int) -> Photo:
    hr = _decoded(file)
    height, width = (size // scale for size in hr.shape[:2])
    if not height or not width:
        raise UsageError(f"{file}: {hr.shape[1]}x{hr.shape[0]} is smaller than the scale {scale}; take it out")
    hr = hr[: height * scale, : width * scale]
    lr = _bicubic(hr, scale) if lr is None else lr
    if lr.shape[:2] != (height, width):
        raise UsageError(f"{file}: its LR image is {lr.shape[1]}x{lr.shape[0]}, expected {width}x{height}")
    return Photo(file.name, _colored(hr, colors), _colored(lr, colors))


def _bicubic(hr: Array, scale: int) -> Array:
    return imresize(hr, hr.shape[0] // scale, hr.shape[1] // scale)


def _decoded(file: Path) -> Array:
    """(H, W, 3) uint8 RGB."""
    import cv2

    try:
        data = np.fromfile(file, np.uint8)
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror})") from exc
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise ImageError(f"{file}: not an image that OpenCV can decode; take it out of the folder")
    return np.asarray(image, np.uint8)


def _colored(rgb: Array, colors: int) -> Array:
    if colors == 1:
        return np.round(luma(rgb)).astype(np.uint8)[..., None]
    return np.ascontiguousarray(rgb)
