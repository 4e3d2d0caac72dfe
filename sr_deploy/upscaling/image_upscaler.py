"""What every upscaler of images does alike: options, forms of arrays, alpha, ranges of floats, pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from numbers import Integral
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

import numpy as np
from numpy.typing import NDArray

from sr_deploy.card import PrecisionChoice
from sr_deploy.errors import UsageError
from sr_deploy.pictures.picture import Picture, as_picture, planes_of
from sr_deploy.upscaling.sentinel import OnFailure
from sr_deploy.upscaling.tiling import SMALLEST_TILE

if TYPE_CHECKING:
    from sr_deploy.arrays import Array
    from sr_deploy.bundle import Bundle
    from sr_deploy.pictures.size import TargetSize

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Stats:
    """What the sentinel saw since the Upscaler was opened.

    tiles: windows run.
    recomputed: those that were not sane, and so were computed again in fp32 if they had not been.
    replaced: those of them that are bicubic, since fp32 failed too.
    """

    tiles: int = 0
    recomputed: int = 0
    replaced: int = 0

    def __add__(self, more: Self) -> Self:
        """Both together."""
        return type(self)(*map(sum, zip(astuple(self), astuple(more), strict=True)))

    def __sub__(self, before: Self) -> Self:
        """What came since then."""
        return type(self)(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    @property
    def trouble(self) -> str:
        """What was not sane, in words; empty when all was."""
        return _trouble("tiles", self.tiles, self.recomputed, self.replaced, "bicubic")


@dataclass(frozen=True)
class MaskedStats(Stats):
    """Stats, and what was refined.

    pixels: LR pixels in all.
    refined: those of them that were refined.
    base_seconds: in the base network.
    refine_seconds: in the refine network.
    patches: those that a mask chose.
    recomputed_patches: those of them that were not sane.
    coarse_patches: those of them that are as the base made them, since fp32 failed too.
    """

    pixels: int = 0
    refined: int = 0
    base_seconds: float = 0.0
    refine_seconds: float = 0.0
    patches: int = 0
    recomputed_patches: int = 0
    coarse_patches: int = 0

    @property
    def trouble(self) -> str:
        """What was not sane, in words; empty when all was."""
        patches = _trouble("patches", self.patches, self.recomputed_patches, self.coarse_patches, "as the base made them")
        return "; ".join(filter(None, [super().trouble, patches]))

    @property
    def share(self) -> float:
        """Share of the pixels that was refined."""
        return self.refined / self.pixels if self.pixels else 0.0

    def plus(self, pixels: int, refined: int, base_seconds: float, refine_seconds: float) -> MaskedStats:
        """With one more image."""
        return replace(
            self,
            pixels=self.pixels + pixels,
            refined=self.refined + refined,
            base_seconds=self.base_seconds + base_seconds,
            refine_seconds=self.refine_seconds + refine_seconds,
        )


def _trouble(name: str, count: int, recomputed: int, given_up: int, instead: str) -> str:
    if not recomputed:
        return ""
    return f"of {count} {name} {recomputed} were not sane: {recomputed - given_up} computed again in fp32, {given_up} {instead}"


def check_options(
    *, precision: object, tile: object, on_failure: object, memory: float | None = None, threads: int | None = None
) -> None:
    """Make sure that each of an Upscaler's options is one that there is.

    Raises: UsageError naming the option and what it may be.
    """
    for name, value, kind in (("precision", precision, PrecisionChoice), ("on_failure", on_failure, OnFailure)):
        allowed = get_args(kind)
        if not isinstance(value, str) or value not in allowed:
            raise UsageError(f"{name} {value!r} is unknown; expected one of {', '.join(map(repr, allowed))}")
    _check_tile(tile)
    for name, number in (("memory", memory), ("threads", threads)):
        if number is not None and number <= 0:
            raise UsageError(f"{name} of {number} is too little; expected 1 or more, or None for the usual")


def _check_tile(tile: object) -> None:
    expected = f"use 0 (whole image), 'auto', or {SMALLEST_TILE} and more"
    if isinstance(tile, str) and tile == "auto":
        return
    if not isinstance(tile, Integral) or isinstance(tile, bool):
        raise UsageError(f"tile {tile!r} is no side of a tile; {expected}")
    if tile != 0 and int(tile) < SMALLEST_TILE:
        raise UsageError(f"a tile of {tile} pixels is too small; {expected}")


def _visible(pixels: Array, alpha: Array | None, hidden: NDArray[np.bool_] | None) -> Array:
    """The pixels with the colors of visible neighbors where they are transparent, or hold no data."""
    if alpha is None and hidden is None:
        return pixels
    from sr_deploy.pictures.color import bleed

    if hidden is None:
        assert alpha is not None
        return bleed(pixels, alpha)
    if hidden.all():
        return np.zeros_like(pixels)
    known = ~hidden
    seen = known if alpha is None else known & (alpha > 0)
    return bleed(np.where(hidden[..., None], np.zeros((), pixels.dtype), pixels), seen if seen.any() else known)


class ImageUpscaler(ABC):
    """A callable from image to image at `scale` times its size; `bundle` names what it runs.

    An implementation gives `upscale_pixels`, and all of these forms come with it.
    """

    bundle: Bundle
    scale: int

    @property
    @abstractmethod
    def description(self) -> str:
        """Networks, backend and precision in one line."""

    @property
    @abstractmethod
    def stats(self) -> Stats:
        """What the sentinel saw since it was opened."""

    @property
    def stats_of_thread(self) -> Stats:
        """The same of images that this thread gave it; of a MaskedUpscaler, of all."""
        return self.stats

    @property
    def concurrency(self) -> int:
        """How many calls from as many threads it works on at once."""
        return 1

    @abstractmethod
    def upscale_pixels(self, pixels: Array, progress: Progress | None = None) -> Array:
        """(H,W,C) -> (sH,sW,C) of the same dtype, through the network as it is.

        pixels: C 3 (RGB) or 1 (gray), uint8, uint16 or float32 in [0,1].
        progress: called as progress(windows done, windows in all).

        Raises: UnhealthyOutputError with the tile's box; EngineError.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the engines; closing twice is fine."""

    def __call__(self, image: Array, *, progress: Progress | None = None) -> Array:
        """The image at `scale` times its size.

        image: (H,W,C) with C 3 (RGB), 1 (gray), 4 or 2 (with alpha last), or (H,W) gray; uint8, uint16, or float32, nominally
            in [0,1]: values beyond are scaled into it for the network and back, and those that stand for no data, such as
            -9999, are left out of it and put back. The result has the same form and dtype.
        progress: called as progress(windows done, windows in all).

        Raises: UsageError for another form, NaN or Inf, and once it is closed; UnhealthyOutputError with the tile's box;
            EngineError.
        """
        planes = planes_of(image, "upscaled")
        if planes.shape[2] in (1, 3):
            large = self._upscale(planes, progress)
        else:
            alpha = planes[..., -1]
            color = self._upscale(_visible(np.ascontiguousarray(planes[..., :-1]), alpha, None), progress)
            large = np.concatenate([color, self._upscale_alpha(alpha)[..., None]], axis=2)
        return large[..., 0] if image.ndim == 2 else large

    def upscale_picture(self, picture: Picture, *, size: TargetSize | None = None, progress: Progress | None = None) -> Picture:
        """The picture upscaled, with its alpha and metadata.

        picture: as `read_image` gives it.
        size: what it is resampled to when that differs; None is `scale` times its own.
        progress: called as progress(windows done, windows in all).

        Raises: as `__call__`; ImageError for a size that is too large.
        """
        picture = as_picture(picture, "upscaled")
        pixels, alpha = picture.pixels, picture.alpha
        target = size.resolve(pixels.shape[0], pixels.shape[1], self.scale) if size is not None else None
        hidden = picture.hidden
        large_alpha = None if alpha is None else self._upscale_alpha(alpha)
        large = self._upscale(_visible(pixels, alpha, hidden), progress)
        if target is not None:
            from sr_deploy.pictures.resample import resample

            large = resample(large, target)
            large_alpha = None if large_alpha is None else resample(large_alpha, target)
        if hidden is not None:
            from sr_deploy.pictures.nodata import put_back

            put_back(large, pixels, hidden)
        down, across = (new / old for new, old in zip(large.shape[:2], pixels.shape[:2], strict=True))
        return replace(picture, pixels=large, alpha=large_alpha, metadata=picture.metadata.scaled(down, across))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _upscale_alpha(self, alpha: Array) -> Array:
        """(H,W) -> (sH,sW); a constant plane needs no network."""
        if (alpha == alpha.flat[0]).all():
            return np.full([side * self.scale for side in alpha.shape], alpha.flat[0], dtype=alpha.dtype)
        return self._upscale(np.ascontiguousarray(alpha[..., None]), None)[..., 0]

    def _upscale(self, pixels: Array, progress: Progress | None) -> Array:
        """(H,W,C), C 3 or 1, of any depth; floats beyond [0,1] are scaled into it and back."""
        if pixels.dtype != np.float32:
            return self.upscale_pixels(pixels, progress)
        darkest, brightest = float(pixels.min()), float(pixels.max())
        if not np.isfinite(darkest + brightest):
            raise UsageError("the image holds NaN or Inf; replace these pixels first")
        from sr_deploy.pictures.nodata import put_back, without_data

        if (hidden := without_data(pixels, None)) is not None:
            large = self._upscale(_visible(pixels, None, hidden), progress)
            put_back(large, pixels, hidden)
            return large
        low, high = min(0.0, darkest), max(1.0, brightest)
        if (low, high) == (0.0, 1.0):
            return self.upscale_pixels(pixels, progress)
        return self.upscale_pixels((pixels - low) / np.float32(high - low), progress) * np.float32(high - low) + np.float32(low)
