"""PSNR-Y, SSIM-Y and time of an upscaler on images whose HR is known, as the field computes them.

8-bit images; HR cropped to a multiple of the scale; Y of BT.601 in limited range; a border of `scale` pixels shaved; SSIM with
a Gaussian window of 11x11. LR is bicubic as MATLAB's imresize makes it where no LR images are given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.metrics import SSIM_WINDOW, psnr_y, ssim_y
from sr_deploy.pictures.image import READABLE_SUFFIXES, read_image


class AnyUpscaler(Protocol):
    """Whatever makes (H,W,3) uint8 RGB `scale` times as large."""

    @property
    def scale(self) -> int: ...

    def __call__(self, image: Array, /) -> Array: ...


@dataclass(frozen=True)
class Pair:
    """An image in both resolutions: (H,W,3) uint8 RGB, `hr` exactly a whole number of times as large as `lr`."""

    name: str
    hr: Array
    lr: Array


@dataclass(frozen=True)
class PairFiles:
    """Where a pair lies on disk; without `lr`, LR is made from HR."""

    hr: Path
    lr: Path | None = None

    def read(self, scale: int) -> Pair:
        """The pair for that scale, HR cropped to a multiple of it.

        Raises: ImageError for a file that is damaged or deeper than 8 bit; UsageError for one that is too small, or an LR image
            that is not `scale` times smaller.
        """
        hr = _read(self.hr)
        height, width = (side // scale for side in hr.shape[:2])
        if min(height, width) * scale < SSIM_WINDOW + 2 * scale:
            raise UsageError(
                f"{self.hr}: {hr.shape[1]}x{hr.shape[0]} is too small; SSIM needs {SSIM_WINDOW} pixels inside a border of "
                f"{scale}; take it out of the folder"
            )
        hr = np.ascontiguousarray(hr[: height * scale, : width * scale])
        lr = imresize(hr, height, width) if self.lr is None else _read(self.lr)
        if lr.shape[:2] != (height, width):
            raise UsageError(
                f"{self.lr}: {lr.shape[1]}x{lr.shape[0]} does not match {self.hr.name}; expected {width}x{height} for x{scale}"
            )
        return Pair(self.hr.stem, hr, lr)


@dataclass(frozen=True)
class Score:
    """What one image, or the mean of several, came to: PSNR of Y in dB, SSIM of Y, seconds from image to image."""

    name: str
    psnr_y: float
    ssim_y: float
    seconds: float


def find_pairs(hr: Path, lr: Path | None = None, *, scale: int) -> tuple[PairFiles, ...]:
    """The images of the folder `hr`, sorted by name, each with its LR image: of the same stem in `lr`, or of stem + `xSCALE`.

    Subfolders and hidden files are left out. Nothing is decoded yet.

    Raises: UsageError for a folder that is missing or holds no image, and for an HR image with no LR image or several.
    """
    files = _images(hr)
    if lr is None:
        return tuple(PairFiles(file) for file in files)
    small = _images(lr)
    return tuple(PairFiles(file, _counterpart(file, small, lr, scale)) for file in files)


Seen = Callable[[Pair, Array, Score], object]
"""Is called with each pair, what became of its LR, (H,W,3) uint8 RGB, and its score."""


def evaluate(upscaler: AnyUpscaler, pairs: Iterable[Pair], *, runs: int = 1, observer: Seen | None = None) -> tuple[Score, ...]:
    """One score per pair, in their order.

    A size that was not seen before runs once untimed, then each image `runs` times; the median counts. observer: called when
    a score is there.

    Raises: UsageError when a pair is of another scale; as the upscaler raises.
    """
    scores, warm = [], set()
    for pair in pairs:
        if pair.lr.shape not in warm:
            upscaler(pair.lr)
            warm.add(pair.lr.shape)
        image, seconds = _upscaled(upscaler, pair, runs)
        psnr, ssim = (measure(pair.hr, image, border=upscaler.scale) for measure in (psnr_y, ssim_y))
        scores.append(Score(pair.name, psnr, ssim, seconds))
        if observer is not None:
            observer(pair, image, scores[-1])
    return tuple(scores)


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over images, called 'mean'; of one score or more."""
    return Score(
        "mean",
        statistics.fmean(score.psnr_y for score in scores),
        statistics.fmean(score.ssim_y for score in scores),
        statistics.fmean(score.seconds for score in scores),
    )


def _upscaled(upscaler: AnyUpscaler, pair: Pair, runs: int) -> tuple[Array, float]:
    """What becomes of LR, and the median of seconds. Raises: UsageError for another size than HR's."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        image = upscaler(pair.lr)
        seconds.append(time.perf_counter() - started)
    if image.shape != pair.hr.shape:
        raise UsageError(
            f"{pair.name}: upscaled to {image.shape[1]}x{image.shape[0]}, but HR is {pair.hr.shape[1]}x{pair.hr.shape[0]}; "
            f"expected pairs for x{upscaler.scale}"
        )
    return image, statistics.median(seconds)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; expected a folder of images")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.suffix.lower() in READABLE_SUFFIXES and path.is_file()]
    if not files:
        inside = ", ".join(path.name for path in entries if path.is_dir())
        hint = (
            f"; its subfolders are {inside}: name one of them"
            if inside
            else f"; expected {', '.join(sorted(READABLE_SUFFIXES))}"
        )
        raise UsageError(f"{folder}: no images in it{hint}")
    return files


def _counterpart(file: Path, small: Sequence[Path], folder: Path, scale: int) -> Path:
    stems = (file.stem, f"{file.stem}x{scale}", f"{file.stem}X{scale}")
    found = [path for path in small if path.stem in stems]
    if not found:
        raise UsageError(f"{folder}: no LR image for {file.name}; expected {file.stem} or {file.stem}x{scale} in it")
    if len(found) > 1:
        raise UsageError(
            f"{folder}: {' and '.join(path.name for path in found)} could both be the LR image of {file.name}; keep one of them"
        )
    return found[0]


def _read(path: Path) -> Array:
    """(H,W,3) uint8 RGB; gray is repeated, alpha is left out."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(f"{path}: {pixels.dtype} samples; PSNR and SSIM are of 8-bit images; convert it to 8 bit first")
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels.repeat(3, axis=2))
