"""A mask-guided network as one engine on a device: features, scores, crops and refined pixels never leave it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sr_deploy.card import Masked
from sr_deploy.device.device import DeviceArray
from sr_deploy.device.patches import PatchBatch, PatchSelector
from sr_deploy.device.streams import Stream
from sr_deploy.engines.engine import DeviceEngine, check_arrays
from sr_deploy.engines.mask_guided import Amount, MaskGuidedEngine, PatchCounts
from sr_deploy.engines.pixels import FEATURES, HEALTH, INPUT, OUTPUT, PATCHES, SCORES
from sr_deploy.errors import FeedError

_LEAST_STEP = 32


class DeviceMaskGuidedEngine(MaskGuidedEngine, DeviceEngine):
    """MaskGuidedEngine on a device; all patches of an image are refined in one run, where the refine engine takes so many.

    Patches that are not sane make the health of the image NaN, so that it is computed anew by `run`, which tells them apart. A
    threshold decides on the host how many patches there are, so it is not capturable.
    """

    def __init__(self, base: DeviceEngine, refine: DeviceEngine, masked: Masked, amount: Amount, **options: Any) -> None:
        super().__init__(base, refine, masked, amount, **options)
        self._engines = (base, refine)
        self.device = base.device
        self.contexts = min(base.contexts, refine.contexts)
        self.limits = base.limits
        self._workspaces: list[_Workspace | None] = [None] * self.contexts

    @property
    def capturable(self) -> bool:  # type: ignore[override]
        """Whether a graph can record it; known for sure once it has run."""
        return self._amount.threshold is None and all(engine.capturable for engine in self._engines)

    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        check_arrays(self, arrays, context)
        base, refine = self._engines
        frame, image = arrays[INPUT], arrays[OUTPUT]
        if frame.shape[0] != 1:
            raise FeedError(f"{self.description}: takes one image at a time, got {frame.shape[0]}")
        space = self._workspace(context, frame.shape, image.shape, stream)
        outputs = {OUTPUT: image, HEALTH: arrays[HEALTH], FEATURES: space.features, SCORES: space.scores}
        base.enqueue({INPUT: frame, **outputs}, stream=stream, context=context)
        runs = refine_runs(self._select(space, stream), refine)
        crops, pixels, health = space.patches(runs.step)
        for first in runs:
            batch = PatchBatch(self.device, space.selector.chosen, first, space.scores.shape[3])
            batch.crop(space.features[0], self._masked, crops, stream=stream)
            refine.enqueue({PATCHES: crops, OUTPUT: pixels, HEALTH: health}, stream=stream, context=context)
            batch.paste(pixels, health, image[0], arrays[HEALTH], stream=stream)

    def _workspace(self, context: int, frame: tuple[int, ...], image: tuple[int, ...], stream: Stream) -> _Workspace:
        """The context's own; one thread uses a context at a time."""
        space = self._workspaces[context]
        if space is not None and space.frame != frame:
            self.device.synchronize(stream)
            self._workspaces[context] = space = None
        if space is None:
            space = self._workspaces[context] = _Workspace(self._engines, self._masked, self._amount, frame, image)
        return space

    def _select(self, space: _Workspace, stream: Stream) -> int:
        """How many patches are refined, or a few more; the selector holds their numbers."""
        scores = space.scores.reshape((space.scores.size,))
        wanted = self._amount.of(scores.size)
        if wanted == 0:
            return 0
        if wanted is not None:
            space.selector.take(scores, wanted, stream=stream)
            return wanted
        space.selector.take_from(scores, self._amount.threshold or 0.0, stream=stream)
        self.device.synchronize(stream)
        found = int(space.selector.count.numpy()[0])
        self.meter.add(PatchCounts(scores.size, found))
        return min(stepped(found), int(scores.size))


class _Workspace:
    """What images of one size need in one context. Arrays of patches are made for as many as come, and made again for more."""

    def __init__(
        self,
        engines: tuple[DeviceEngine, DeviceEngine],
        masked: Masked,
        amount: Amount,
        frame: tuple[int, ...],
        image: tuple[int, ...],
    ) -> None:
        base, refine = engines
        self.frame = frame
        self._device = base.device
        self._masked = masked
        self._dtype = refine.inputs[0].dtype
        _, height, width, self._channels = frame
        rows, columns = height // masked.patch, width // masked.patch
        self._side = image[1] // rows
        features = next(spec for spec in base.outputs if spec.name == FEATURES)
        self.features = self._device.empty((1, masked.features, height, width), features.dtype)
        self.scores = self._device.empty((1, 1, rows, columns), np.float32)
        most = amount.of(rows * columns)
        room = refine_runs(rows * columns if most is None else most, refine).stop
        self.selector = PatchSelector(self._device, rows * columns, room=max(1, room))
        self._patches: tuple[DeviceArray, DeviceArray, DeviceArray] | None = None

    def patches(self, count: int) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """Crops, pixels and health of so many patches."""
        if self._patches is None or self._patches[0].shape[0] < count:
            self._patches = None
            side, channels = self._masked.side, self._masked.features
            self._patches = (
                self._device.empty((count, channels, side, side), self._dtype),
                self._device.empty((count, self._side, self._side, self._channels), np.uint8),
                self._device.empty((count,), np.float32),
            )
        crops, pixels, health = self._patches
        return crops[:count], pixels[:count], health[:count]


def refine_runs(count: int, refine: DeviceEngine) -> range:
    """Where each run of the refine engine over `count` patches begins, all of one size: as few as its limits allow."""
    least, most = (shape[0] for shape in refine.limits.get(PATCHES, ((1,), (max(1, count),))))
    number = math.ceil(count / most)
    size = max(least, math.ceil(count / max(1, number)))
    return range(0, number * size, size)


def stepped(count: int) -> int:
    """At least `count`, and up to an eighth more: an engine meets few counts, since each new shape costs it a while."""
    step: int = max(_LEAST_STEP, 2 ** max(0, count.bit_length() - 4))
    return math.ceil(count / step) * step
