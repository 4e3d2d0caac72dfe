"""HR -> LR as pictures come about in the world: blur, other sizes, noise, JPEG and video, drawn from the ranges of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.training.degradation import steps
from sr_deploy.training.degradation.settings import (
    Blur,
    Degradation,
    DegradationRound,
    Jpeg,
    Noise,
    Range,
    Resampling,
    VideoCompression,
)

_SMALLEST_SIDE = 4
"""Of a picture on its way, in pixels."""

_FASTEST = 2
"""Pixels that the picture of a video moves from frame to frame, at most."""


@dataclass(frozen=True)
class Degraded:
    """(H, W, 3) uint8 RGB, and what was done to it, in a few letters each."""

    image: Array
    told: tuple[str, ...]


def degrade(hr: Array, clean: Array, settings: Degradation, random: np.random.Generator) -> Degraded:
    """LR of an HR picture, drawn by `random` alone: (H, W, 3) uint8 RGB, as large as `clean`, which is bicubic LR."""
    if random.random() < settings.clean:
        return Degraded(clean, ("clean",))
    picture = _Degrading(hr, (clean.shape[0], clean.shape[1]), random)
    *earlier, last = settings.rounds
    todo = [step for part in earlier for step in picture.steps_of(part)]
    todo += picture.steps_of(last, is_last=True)
    if settings.order == "shuffled":
        todo = [todo[index] for index in random.permutation(len(todo))]
    for step in todo:
        step()
    picture.finish(last, settings.video)
    return Degraded(picture.image, tuple(picture.told))


class _Degrading:
    """A picture on its way to `size`, which is (height, width), and what happened to it."""

    def __init__(self, image: Array, size: tuple[int, int], random: np.random.Generator) -> None:
        self.image = image
        self.told: list[str] = []
        self._size = size
        self._random = random

    def steps_of(self, part: DegradationRound, *, is_last: bool = False) -> Iterator[Callable[[], None]]:
        """The steps of a round in order, but the JPEG of the last, which comes at the very end."""
        if part.blur is not None:
            yield partial(self._blur, part.blur)
        if part.resize is not None:
            yield partial(self._resize, part.resize, is_last)
        if part.noise is not None:
            yield partial(self._add_noise, part.noise)
        if part.jpeg is not None and not is_last:
            yield partial(self._compress, part.jpeg)

    def finish(self, last: DegradationRound, video: VideoCompression | None) -> None:
        """Take on the size of LR, and then the last compression."""
        if self.image.shape[:2] != self._size:
            self._take_size(*self._size, last.resize or Resampling())
        if video is not None and self._happens(video.probability):
            crf, (down, right) = self._whole(video.crf), self._random.integers(-_FASTEST, _FASTEST + 1, 2)
            self.image = steps.as_video(self.image, crf, video.frames, (int(down), int(right)))
            self.told.append(f"H.264 crf {crf}")
        elif last.jpeg is not None:
            self._compress(last.jpeg)

    def _blur(self, settings: Blur) -> None:
        if not self._happens(settings.probability):
            return
        if self._happens(settings.anisotropic):
            sigma_x, sigma_y, angle = *(self._drawn(settings.sigma) for _ in range(2)), self._random.uniform(0, math.pi)
            self.told.append(f"blur {sigma_x:.1f}x{sigma_y:.1f} at {math.degrees(angle):.0f}")
        else:
            sigma_x = sigma_y = self._drawn(settings.sigma)
            angle = 0.0
            self.told.append(f"blur {sigma_x:.1f}")
        self.image = steps.blurred(self.image, sigma_x, sigma_y, angle)

    def _resize(self, settings: Resampling, is_last: bool) -> None:
        if not self._happens(settings.probability):
            return
        factor = self._drawn(settings.factor)
        sides = self._size if is_last else self.image.shape[:2]
        height, width = (max(_SMALLEST_SIDE, round(side * factor)) for side in sides)
        self._take_size(height, width, settings)

    def _take_size(self, height: int, width: int, settings: Resampling) -> None:
        kernel = settings.kernels[self._random.integers(len(settings.kernels))]
        antialias = kernel == "area" or self._happens(settings.antialias)
        self.image = steps.resized(self.image, height, width, kernel, antialias=antialias)
        self.told.append(f"{width}x{height} {kernel}{'' if antialias else ' aliased'}")

    def _add_noise(self, settings: Noise) -> None:
        if not self._happens(settings.probability):
            return
        gray, is_shot = self._happens(settings.gray), self._happens(settings.poisson)
        if is_shot:
            amount = math.exp(self._drawn((math.log(settings.peak[0]), math.log(settings.peak[1]))))
            self.image = steps.with_shot_noise(self.image, amount, gray=gray, random=self._random)
        else:
            amount = self._drawn(settings.sigma)
            self.image = steps.with_gaussian_noise(self.image, amount, gray=gray, random=self._random)
        self.told.append(f"{'gray ' if gray else ''}{'shot noise of' if is_shot else 'noise'} {amount:.1f}")

    def _compress(self, settings: Jpeg) -> None:
        if self._happens(settings.probability):
            quality = self._whole(settings.quality)
            subsampling = settings.subsampling[self._random.integers(len(settings.subsampling))]
            self.image = steps.as_jpeg(self.image, quality, subsampling)
            self.told.append(f"JPEG {quality} {subsampling}")

    def _happens(self, probability: float) -> bool:
        return bool(self._random.random() < probability)

    def _drawn(self, values: Range) -> float:
        return float(self._random.uniform(*values))

    def _whole(self, values: tuple[int, int]) -> int:
        return int(self._random.integers(values[0], values[1] + 1))
