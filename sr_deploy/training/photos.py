"""Photos in memory: HR as it is in the files, LR by bicubic, and random crops of both."""

from __future__ import annotations

import itertools
import os
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.metrics import luma
from sr_deploy.pictures.image import READABLE_SUFFIXES

Batch = tuple[Array, Array]

DEPTH = 4
"""Batches that are made ahead; a GPU can compute faster than one thread cuts."""


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

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, files))


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


class Crops:
    """Random crops, flipped and turned; batch number `step` depends on the seed and `step` alone.

    `crop`: side of the HR crops; photos that are smaller are left out.
    """

    def __init__(self, photos: Sequence[Photo], *, batch: int, crop: int, seed: Sequence[int]) -> None:
        self._photos = [photo for photo in photos if min(photo.hr.shape[:2]) >= crop]
        if not self._photos:
            raise UsageError(f"none of the {len(photos)} photos is {crop}x{crop} or larger; lower the stage's crop")
        self._scale = photos[0].hr.shape[0] // photos[0].lr.shape[0]
        self._batch, self._side, self._seed = batch, crop // self._scale, tuple(seed)

    def __call__(self, step: int) -> Batch:
        """LR and HR of one batch: (N, H, W, C) uint8."""
        random = np.random.default_rng((*self._seed, step))
        pairs = [self._pair(random) for _ in range(self._batch)]
        return np.stack([lr for lr, _ in pairs]), np.stack([hr for _, hr in pairs])

    def _pair(self, random: np.random.Generator) -> Batch:
        photo = self._photos[random.integers(len(self._photos))]
        side, scale = self._side, self._scale
        y, x = (int(random.integers(size - side + 1)) for size in photo.lr.shape[:2])
        turn = int(random.integers(8))
        lr = photo.lr[y : y + side, x : x + side]
        hr = photo.hr[y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        return _turned(lr, turn), _turned(hr, turn)


class Ahead:
    """Batches in order from step `first` on, made while the steps before them compute; a context manager.

    `waited`: seconds that steps stood still because their batch was not there yet.
    """

    def __init__(self, crops: Crops, first: int, last: int) -> None:
        self.waited = 0.0
        self._crops, self._steps = crops, iter(range(first, last))
        self._pool = ThreadPoolExecutor(DEPTH, thread_name_prefix="crops")
        self._next: deque[Future[Batch]] = deque()
        for _ in range(DEPTH):
            self._begin()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self) -> Batch:
        """The next batch."""
        start = perf_counter()
        batch = self._next.popleft().result()
        self.waited += perf_counter() - start
        self._begin()
        return batch

    def _begin(self) -> None:
        for step in itertools.islice(self._steps, 1):
            self._next.append(self._pool.submit(self._crops, step))


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
    lr = imresize(hr, height, width) if lr is None else lr
    if lr.shape[:2] != (height, width):
        raise UsageError(f"{file}: its LR image is {lr.shape[1]}x{lr.shape[0]}, expected {width}x{height}")
    return Photo(file.name, _colored(hr, colors), _colored(lr, colors))


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


def _turned(image: Array, turn: int) -> Array:
    """One of the eight ways to lay a square."""
    flipped = image[:, ::-1] if turn & 1 else image
    flipped = flipped[::-1] if turn & 2 else flipped
    return flipped.transpose(1, 0, 2) if turn & 4 else flipped
