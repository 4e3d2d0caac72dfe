"""Random crops of photos, and batches of them that are made while a network computes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import NamedTuple

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.errors import UsageError
from sr_deploy.training.degradation import degrade
from sr_deploy.training.degradation.settings import Degradation
from sr_deploy.training.photos import Photo, cores

DEPTH = 4
"""Batches that are made ahead, at least; a GPU can compute faster than one thread cuts."""

MARGIN = 4
"""LR pixels that are degraded around a crop, and then cut away: blur sees beyond it, and JPEG's blocks lie anywhere in it."""


class Batch(NamedTuple):
    """Crops of one place each, (N, H, W, C) uint8: LR as the network sees it, HR, and LR that is bicubic and no more; and which
    are of generated pictures, (N,) bool."""

    lr: Array
    hr: Array
    clean: Array
    generated: Array


@dataclass(frozen=True)
class Example:
    """One crop of a batch, (H, W, C) uint8 each: of which picture, what was done to its LR, and whether it was generated."""

    name: str
    lr: Array
    hr: Array
    clean: Array
    told: tuple[str, ...]
    generated: bool


class Crops:
    """Random crops, flipped and turned; batch number `step` depends on the seed and `step` alone.

    crop: side of the HR crops; photos that are smaller are left out. generated: pictures that `share` of the crops are of.
    degradation: makes LR of HR; without it, LR is that of the photos.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        batch: int,
        crop: int,
        seed: Sequence[int],
        generated: Sequence[Photo] = (),
        share: float = 0.0,
        degradation: Degradation | None = None,
    ) -> None:
        self._photos = [photo for photo in photos if min(photo.hr.shape[:2]) >= crop]
        if not self._photos:
            raise UsageError(f"none of the {len(photos)} photos is {crop}x{crop} or larger; lower the stage's crop")
        self._generated, self._share = generated, share
        self._scale = photos[0].hr.shape[0] // photos[0].lr.shape[0]
        self._batch, self._side, self._seed = batch, crop // self._scale, tuple(seed)
        self._degradation = degradation

    def __call__(self, step: int) -> Batch:
        """One batch."""
        examples = self.examples(step)
        lr, hr = (np.stack([getattr(example, name) for example in examples]) for name in ("lr", "hr"))
        clean = lr if self._degradation is None else np.stack([example.clean for example in examples])
        return Batch(lr, hr, clean, np.array([example.generated for example in examples]))

    def examples(self, step: int) -> list[Example]:
        """The crops of one batch."""
        random = np.random.default_rng((*self._seed, step))
        return [self._example(random) for _ in range(self._batch)]

    def _example(self, random: np.random.Generator) -> Example:
        is_generated = bool(self._share) and random.random() < self._share
        photos = self._generated if is_generated else self._photos
        photo = photos[int(random.integers(len(photos)))]
        margin = MARGIN if self._degradation else 0
        height, width = (min(self._side + 2 * margin, size) for size in photo.lr.shape[:2])
        y, x = (int(random.integers(size - side + 1)) for size, side in zip(photo.lr.shape, (height, width), strict=False))
        turn, scale = int(random.integers(8)), self._scale
        lr = _turned(photo.lr[y : y + height, x : x + width], turn)
        hr = _turned(photo.hr[y * scale : (y + height) * scale, x * scale : (x + width) * scale], turn)
        if self._degradation is None:
            return Example(photo.name, lr, hr, lr, (), is_generated)
        degraded = degrade(np.ascontiguousarray(hr), lr, self._degradation, random)
        y, x = (self._place(size, random) for size in lr.shape[:2])
        inner = (slice(y, y + self._side), slice(x, x + self._side))
        outer = tuple(slice(part.start * scale, part.stop * scale) for part in inner)
        return Example(photo.name, degraded.image[inner], hr[outer], lr[inner], degraded.told, is_generated)

    def _place(self, size: int, random: np.random.Generator) -> int:
        """Where the crop begins in what was degraded: at every place of a JPEG's block alike."""
        return int(random.integers(max(1, size - self._side)))


class Ahead:
    """Batches in order from step `first` on, made on all cores while the steps before them compute; a context manager.

    `waited`: seconds that steps stood still because their batch was not there yet.
    """

    def __init__(self, crops: Crops, first: int, last: int) -> None:
        self.waited = 0.0
        self._crops, self._steps = crops, iter(range(first, last))
        depth = max(DEPTH, 2 * cores())
        self._pool = ThreadPoolExecutor(depth, thread_name_prefix="crops")
        self._next: deque[Future[Batch]] = deque()
        for _ in range(depth):
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


def _turned(image: Array, turn: int) -> Array:
    """One of the eight ways to lay a square."""
    flipped = image[:, ::-1] if turn & 1 else image
    flipped = flipped[::-1] if turn & 2 else flipped
    return flipped.transpose(1, 0, 2) if turn & 4 else flipped
