"""A mask-guided network as one engine: base for the whole image, refine for the patches with the highest scores.

engine = MaskGuidedEngine(base, refine, card.masked, Amount(count=240))
engine.run({"pixels": pixels})      # -> upscaled, health, as the engine of a plain network
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.card import Masked
from sr_deploy.device.health import are_healthy
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.patches import best, crops
from sr_deploy.engines.pixels import FEATURES, HEALTH, PATCHES, SCORES
from sr_deploy.errors import UsageError

_AT_ONCE = 256
"""Patches that the refine network is given at once on the host, which bounds the memory that it takes."""

_STEP = 32
"""Batches are filled up to a multiple: each new shape costs an engine a while."""


@dataclass(frozen=True)
class Amount:
    """How many patches are refined: a `count`, a `ratio` of all of them, or those whose score is at least `threshold`.

    Raises: UsageError unless it is exactly one of them, a count of 0 and more, and a ratio from 0 to 1.
    """

    count: int | None = None
    ratio: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.count, self.ratio, self.threshold) if value is not None]
        if len(given) != 1 or np.isnan(given[0]):
            raise UsageError("expected one of: a count of patches, a ratio, a threshold of scores")
        if (self.count or 0) < 0 or not 0 <= (self.ratio or 0) <= 1:
            raise UsageError(f"{given[0]} is no amount of patches; expected a count of 0 and more, or a ratio from 0 to 1")

    def of(self, patches: int) -> int | None:
        """How many of so many patches; None when the scores decide."""
        if self.threshold is not None:
            return None
        return min(patches, self.count if self.count is not None else round((self.ratio or 0.0) * patches))

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"patches of score {self.threshold:g} and more"
        return f"{self.count} patches" if self.count is not None else f"{self.ratio:.0%} of the patches"


def select_patches(scores: Array, amount: Amount) -> Array:
    """Numbers of the selected patches in rising order; of equal scores the earlier ones come first, NaN is never selected.

    scores: float32, one per patch, row by row.
    """
    wanted = amount.of(scores.size)
    if wanted is None:
        return np.flatnonzero(scores.ravel() >= np.float32(amount.threshold or 0.0))
    return best(scores, wanted)


@dataclass(frozen=True)
class PatchCounts:
    """Patches seen, refined, refined again in fp32, and left coarse because they were not sane in fp32 either."""

    patches: int = 0
    refined: int = 0
    recomputed: int = 0
    kept: int = 0

    def __add__(self, other: PatchCounts) -> PatchCounts:
        return PatchCounts(
            self.patches + other.patches,
            self.refined + other.refined,
            self.recomputed + other.recomputed,
            self.kept + other.kept,
        )


class PatchMeter:
    """Adds up counts and seconds, from any thread; keeps the scores of the latest image."""

    def __init__(self) -> None:
        self.counts = PatchCounts()
        self.seconds = (0.0, 0.0)
        self.scores: Array | None = None
        self._lock = threading.Lock()

    def add(self, counts: PatchCounts, base: float = 0.0, refine: float = 0.0) -> None:
        with self._lock:
            self.counts += counts
            self.seconds = (self.seconds[0] + base, self.seconds[1] + refine)


class MaskGuidedEngine(Engine):
    """An engine of one image made of a base and a refine engine of one form.

    Patches whose refined pixels are not sane are computed again by the engine that `fallback` opens; if that does not help,
    they stay coarse. `health` is the base's alone. The engines are closed with this one.
    """

    def __init__(
        self,
        base: Engine,
        refine: Engine,
        masked: Masked,
        amount: Amount,
        *,
        fallback: Callable[[], Engine] | None = None,
        meter: PatchMeter | None = None,
    ) -> None:
        super().__init__()
        self.inputs = base.inputs
        self.outputs = tuple(spec for spec in base.outputs if spec.name not in (FEATURES, SCORES))
        self.description = f"{base.description}, {amount} refined"
        self._image = next(spec for spec in self.outputs if spec.name != HEALTH)
        self._refined = next(spec.name for spec in refine.outputs if spec.name != HEALTH)
        self._base, self._refine = base, refine
        self._masked = masked
        self._amount = amount
        self._fallback = fallback
        self._spare: Engine | None = None
        self.meter = meter or PatchMeter()

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        results = self._base.run(feeds)
        image, features, scores = (results[name] for name in (self._image.name, FEATURES, SCORES))
        middle = time.perf_counter()
        counts = PatchCounts()
        for number in range(len(image)):
            counts += self._refine_image(image[number], features[number], scores[number, 0])
        self.meter.scores = scores[-1, 0]
        self.meter.add(counts, middle - start, time.perf_counter() - middle)
        return {name: results[name] for name in (self._image.name, HEALTH)}

    def _refine_image(self, image: Array, features: Array, scores: Array) -> PatchCounts:
        selected = select_patches(scores, self._amount)
        places = _places(image, scores.shape, planar=self._image.dtype != np.uint8)
        counts = PatchCounts(scores.size, len(selected))
        for first in range(0, len(selected), _AT_ONCE):
            chosen = selected[first : first + _AT_ONCE]
            patches = crops(features[None], chosen, patch=self._masked.patch, padding=self._masked.padding)
            row, column = np.divmod(chosen, scores.shape[1])
            coarse = places[row, column]
            pixels, good = self._attempt(self._refine, patches, coarse)
            if not good.all():
                bad = int((~good).sum())
                pixels, good = self._again(patches, coarse, pixels, good)
                counts += PatchCounts(recomputed=bad, kept=int((~good).sum()))
                pixels = np.where(good.reshape(-1, 1, 1, 1), pixels, coarse)
            places[row, column] = pixels
        return counts

    def _attempt(self, engine: Engine, patches: Array, coarse: Array) -> tuple[Array, Array]:
        """Refined pixels of the patches, and which of them are sane: about as bright as the coarse ones."""
        (spec,) = engine.inputs
        padded = np.zeros((-(-len(patches) // _STEP) * _STEP, *patches.shape[1:]), spec.dtype)
        padded[: len(patches)] = patches
        results = engine.run({PATCHES: padded})
        full_scale = 255.0 if coarse.dtype == np.uint8 else 1.0
        brightness = np.abs(coarse.reshape(len(coarse), -1)).mean(axis=1, dtype=np.float64) / full_scale
        health = results[HEALTH][: len(patches)].astype(np.float64)
        return results[self._refined][: len(patches)], are_healthy(health, brightness)

    def _again(self, patches: Array, coarse: Array, pixels: Array, good: Array) -> tuple[Array, Array]:
        """The bad ones computed anew."""
        if self._fallback is None:
            return pixels, good
        if self._spare is None:
            self._spare = self._fallback()
        bad = np.flatnonzero(~good)
        anew, sane = self._attempt(self._spare, patches[bad], coarse[bad])
        pixels, good = pixels.copy(), good.copy()
        pixels[bad], good[bad] = anew, sane
        return pixels, good

    def _close(self) -> None:
        for engine in (self._base, self._refine, self._spare):
            if engine is not None:
                engine.close()


def _places(image: Array, grid: tuple[int, ...], *, planar: bool) -> Array:
    """A view of an image, (sH,sW,C) or (C,sH,sW), by patches: (rows,columns,sP,sP,C) or (rows,columns,C,sP,sP)."""
    rows, columns = grid
    if planar:
        channels, height, width = image.shape
        return image.reshape(channels, rows, height // rows, columns, width // columns).transpose(1, 3, 0, 2, 4)
    height, width, channels = image.shape
    return image.reshape(rows, height // rows, columns, width // columns, channels).transpose(0, 2, 1, 3, 4)
