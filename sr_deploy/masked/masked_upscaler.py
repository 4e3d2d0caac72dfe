"""MaskedUpscaler: the effort of a second network only where it pays."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.card import Part, PrecisionChoice
from sr_deploy.engines import Arithmetic, Backend
from sr_deploy.engines.engine import Engine
from sr_deploy.engines.mask_guided import Amount, MaskGuidedEngine, PatchCounts, PatchMeter
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import BundleError, UsageError
from sr_deploy.masked.pair import PairUpscaler
from sr_deploy.pictures.image import write_image
from sr_deploy.pictures.picture import Picture, planes_of
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, MaskedStats, Progress
from sr_deploy.upscaling.sentinel import Form, OnFailure, WindowRunner
from sr_deploy.upscaling.tiling import Tiling
from sr_deploy.upscaling.upscaler import Upscaler

if TYPE_CHECKING:
    from sr_deploy.device.video_planes import PlaneFormat
    from sr_deploy.engines.engine import DeviceEngine

BundleLike = str | Path | Bundle


class MaskGuidedUpscaler(Upscaler):
    """An Upscaler for the bundle of a mask-guided network; it takes images whole, since patches compete over all of it.

    Raises: BundleError for another bundle.
    """

    def __init__(self, model: BundleLike, amount: Amount, **options: Any) -> None:
        bundle = model if isinstance(model, Bundle) else open_bundle(model)
        if bundle.card.masked is None:
            raise BundleError(f"{bundle.folder}: is no mask-guided network; give two bundles instead, as base and refine")
        self._amount = amount
        self._masked = bundle.card.masked
        self._meter = PatchMeter()
        self._keeps_scores = False
        super().__init__(bundle, tile=0, **options)

    @property
    def description(self) -> str:
        return f"{super().description}, {self._amount} refined"

    @property
    def _has_independent_tiles(self) -> bool:
        return False

    def _frames_device(self) -> None:
        """None: what is refined is counted on the way from the host."""

    @property
    def stats(self) -> MaskedStats:
        plain, counts, area = super().stats, self._meter.counts, self._masked.patch**2
        return MaskedStats(
            plain.tiles,
            plain.recomputed,
            plain.replaced,
            counts.patches * area,
            counts.refined * area,
            *self._meter.seconds,
            counts.refined,
            counts.recomputed,
            counts.kept,
        )

    def heat(self, image: Array) -> Array:
        """(H,W) float32 in [0,1]: the scores of the mask, from the lowest to the highest."""
        self._keeps_scores = True
        self(image if image.ndim == 2 or image.shape[2] in (1, 3) else image[..., :-1])
        return self.last_heat(image)

    def last_heat(self, image: Array) -> Array:
        """`heat` of the image that was upscaled last, from the scores that it left."""
        scores = self._meter.scores
        if scores is None:
            return self.heat(image)
        scores = scores - scores.min()
        large = scores.repeat(self._masked.patch, axis=0).repeat(self._masked.patch, axis=1)[: image.shape[0], : image.shape[1]]
        return np.asarray(large / max(float(scores.max()), 1e-12), np.float32)

    def _run_frame(
        self, pixels: Array, tiling: Tiling, progress: Progress | None, planes: PlaneFormat | None = None
    ) -> Array | None:
        """On a device, where the scores stay; None, for a run from the host, once they are asked for."""
        if self._keeps_scores:
            return None
        large = super()._run_frame(pixels, tiling, progress, planes)
        self._meter.scores = None
        patches = math.prod(side // self._masked.patch for side in tiling.window)
        selected = self._amount.of(patches)
        if large is not None and selected is not None:
            self._meter.add(PatchCounts(patches, selected))
        return large

    def _new_windows(
        self, backend: Backend, *, precision: PrecisionChoice, on_failure: OnFailure, threads: int | None, gpu: int
    ) -> WindowRunner:
        return _Windows(
            self.bundle,
            self._amount,
            self._meter,
            backend=backend,
            precision=precision,
            on_failure=on_failure,
            threads=threads,
            gpu=gpu,
        )


class _Windows(WindowRunner):
    """Opens both networks of a bundle as one engine."""

    def __init__(self, bundle: Bundle, amount: Amount, meter: PatchMeter, **options: Any) -> None:
        super().__init__(bundle, **options)
        self._amount = amount
        self._meter = meter

    def _open(self, form: Form, precision: Arithmetic, gpu: int, part: Part = "", options: tuple[str, ...] = ()) -> Engine:
        if part:
            return super()._open(form, precision, gpu, part, options)
        masked, highest = self._bundle.card.masked, self._fallback()
        assert masked is not None
        base, refine = (self._open(form, precision, gpu, part, options) for part in ("base", "refine"))
        spare = None if precision == highest else functools.partial(self._open, form, highest, gpu, "refine")
        if self._backend.device == "cpu":
            return MaskGuidedEngine(base, refine, masked, self._amount, fallback=spare, meter=self._meter)
        from sr_deploy.engines.mask_guided_device import DeviceMaskGuidedEngine

        engines = cast("DeviceEngine", base), cast("DeviceEngine", refine)
        return DeviceMaskGuidedEngine(*engines, masked, self._amount, fallback=spare, meter=self._meter)


class MaskedUpscaler(ImageUpscaler):
    """An Upscaler that spends its better network only where that pays.

        MaskedUpscaler("rfdn_mga_x4", k=240)                        # a mask-guided network; k: patches that are refined
        MaskedUpscaler(base="fast", refine="quality", budget=0.4)   # any two of one scale, in 40 % of the better one's time

    model: the bundle of a mask-guided network, with `k` or `threshold`.
    k: how many patches are refined: their count (int), or a share of all (float up to 1).
    threshold: the lowest score that is refined.
    base: the bundle for the whole image, in place of `model`, with `refine` and `budget`.
    refine: the bundle for what has most detail, of the same scale.
    budget: share of the time that the refine network alone would take.
    options: those of Upscaler; a mask-guided network has no tile.

    Raises: BundleError, BackendUnavailableError, UsageError.
    """

    def __init__(
        self,
        model: BundleLike | None = None,
        *,
        k: float | None = None,
        threshold: float | None = None,
        base: BundleLike | None = None,
        refine: BundleLike | None = None,
        budget: float | None = None,
        **options: Any,
    ) -> None:
        self._upscaler: MaskGuidedUpscaler | PairUpscaler
        if model is not None and base is None and refine is None and budget is None:
            if "tile" in options:
                raise UsageError("a mask-guided network takes images whole; leave out tile")
            count, ratio = (k, None) if isinstance(k, int) else (None, k)
            self._upscaler = MaskGuidedUpscaler(model, Amount(count, ratio, threshold), **options)
        elif base is not None and refine is not None and budget is not None and (model, k, threshold) == (None,) * 3:
            self._upscaler = PairUpscaler(Upscaler(base, **options), Upscaler(refine, **options), budget=budget)
        else:
            raise UsageError("expected a mask-guided bundle with k or threshold, or base, refine and budget")
        self.bundle = self._upscaler.bundle
        self.card = self.bundle.card
        self.scale = self._upscaler.scale

    @property
    def description(self) -> str:
        return self._upscaler.description

    @property
    def stats(self) -> MaskedStats:
        return self._upscaler.stats

    @property
    def concurrency(self) -> int:
        return self._upscaler.concurrency

    def upscale_pixels(self, pixels: Array, progress: Progress | None = None) -> Array:
        return self._upscaler.upscale_pixels(pixels, progress)

    def heat(self, image: Array) -> Array:
        """(H,W) float32 in [0,1]: where the image is refined first, the highest first.

        image: as for `__call__`.

        Raises: as `__call__`.
        """
        return self._upscaler.heat(planes_of(image, "upscaled"))

    def last_heat(self, image: Array) -> Array:
        """`heat` of the image or picture that was upscaled last, without upscaling it again.

        image: that image, without alpha.

        Raises: as `__call__`.
        """
        return self._upscaler.last_heat(planes_of(image, "upscaled"))

    def close(self) -> None:
        self._upscaler.close()


def write_heat(path: Path, heat: Array, scale: int) -> None:
    """Write a heat map (H,W) as an 8-bit gray image, each LR pixel a square of `scale`.

    Raises: ImageError.
    """
    gray = np.round(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    write_image(path, Picture(gray.repeat(scale, axis=0).repeat(scale, axis=1)[..., None]))
