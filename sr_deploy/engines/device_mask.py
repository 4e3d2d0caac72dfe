"""Selection of patches by their scores, their crops and their pixels, on a device.

    selector = PatchSelector(device, count)         # of so many patches
    selector.take(scores, wanted)                   # or take_from(scores, threshold)
    batch = PatchBatch(device, selector.chosen, 0, across)
    batch.crop(features, masked, crops)             # then an engine refines the crops
    batch.judge(...), batch.paste(...)

Nothing here allocates while it runs, so that a CUDA graph can record it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sr_deploy.bundle import Masked
from sr_deploy.engines.device import Device, DeviceArray, Stream, describe
from sr_deploy.errors import FeedError

_PART = 128
_DIGITS = 256
_SHIFTS = (24, 16, 8, 0)


class PatchSelector:
    """Selects among `patches` scores; of equal ones the earlier come first, NaN is never selected.

    `chosen` is so long that batches of `batch` patches end within it.
    """

    def __init__(self, device: Device, patches: int, *, batch: int = 1) -> None:
        self._device = device
        self._patches = patches
        self._parts = math.ceil(patches / _PART)
        self._state = device.empty((2,), "uint32")
        self._counts = device.empty((_DIGITS,), "int32")
        self._above, self._equal = (device.empty((self._parts,), "int32") for _ in range(2))
        self.chosen = device.empty((math.ceil(patches / batch) * batch,), "int32")
        """Numbers of the selected patches in rising order, then -1."""
        self.count = device.empty((1,), "int32")
        """How many are selected."""

    def take(self, scores: DeviceArray, wanted: int, *, stream: Stream = None) -> None:
        """Select the `wanted` highest of `scores` (patches,) float32.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.engines import mask_kernels as kernels

        self._check(scores)
        launch = self._device.launch
        launch(kernels.clear, (_DIGITS,), [self._state, wanted, self._counts], stream=stream)
        for shift in _SHIFTS:
            launch(kernels.count_digits, (self._patches,), [scores, self._state, shift, self._counts], stream=stream)
            launch(kernels.pick_digit, (1,), [self._counts, shift, self._state], stream=stream)
        self._write(scores, stream)

    def take_from(self, scores: DeviceArray, threshold: float, *, stream: Stream = None) -> None:
        """Select all of `scores` (patches,) float32 that are at least the threshold.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.engines import mask_kernels as kernels

        self._check(scores)
        self._device.launch(kernels.set_threshold, (1,), [threshold, self._patches, self._state], stream=stream)
        self._write(scores, stream)

    def _write(self, scores: DeviceArray, stream: Stream) -> None:
        from sr_deploy.engines import mask_kernels as kernels

        launch, parts = self._device.launch, (self._parts,)
        of_parts = [self._above, self._equal]
        launch(kernels.count_parts, parts, [scores, self._state, _PART, *of_parts], stream=stream)
        launch(kernels.start_parts, (1,), [self._state, *of_parts, self.count], stream=stream)
        launch(kernels.write_parts, parts, [scores, self._state, _PART, *of_parts, self.chosen], stream=stream)
        launch(kernels.end_chosen, self.chosen.shape, [self.count, self.chosen], stream=stream)

    def _check(self, scores: DeviceArray) -> None:
        if scores.shape != (self._patches,) or scores.dtype.__name__ != "float32":
            raise FeedError(f"{describe(scores)} are no scores; expected float32[{self._patches}]")


@dataclass(frozen=True)
class PatchBatch:
    """Patches `first` and following of `chosen`, in an image of `across` patches in a row."""

    device: Device
    chosen: DeviceArray
    first: int
    across: int

    def crop(self, features: DeviceArray, masked: Masked, crops: DeviceArray, *, stream: Stream = None) -> None:
        """Fill crops (B,F,side,side) from features (F,H,W), fp16 or fp32 both; zero beyond the image and where none is chosen.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.engines import mask_kernels as kernels

        self._check(crops.shape[0])
        shape = (crops.shape[0], features.shape[0], masked.side, masked.side)
        if crops.shape != shape:
            raise FeedError(f"{describe(crops)} cannot hold crops of {describe(features)}; expected {list(shape)}")
        arguments = [features, self.chosen, self.first, self.across, masked.patch, masked.padding, crops]
        self.device.launch(kernels.crop_patches, shape, arguments, stream=stream)

    def judge(
        self,
        refined: DeviceArray,
        frame: DeviceArray,
        side: int,
        good: DeviceArray,
        health: DeviceArray,
        *,
        stream: Stream = None,
    ) -> None:
        """Fill good (B,) int32 with 1 where the health of refined patches (B,) suits the frame (sH,sW,C) uint8, coarse as yet.

        `health` (1,) becomes NaN when one does not. `side`: of a patch in the frame.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.engines import mask_kernels as kernels

        self._check(refined.shape[0])
        arguments = [refined, frame, self.chosen, self.first, self.across, side, good, health]
        self.device.launch(kernels.judge_patches, refined.shape, arguments, stream=stream)

    def paste(self, pixels: DeviceArray, good: DeviceArray, frame: DeviceArray, *, stream: Stream = None) -> None:
        """Put the good ones of the pixels (B,side,side,C) uint8 in their place in the frame (sH,sW,C) uint8.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.engines import mask_kernels as kernels

        self._check(pixels.shape[0])
        arguments = [pixels, good, self.chosen, self.first, self.across, frame]
        self.device.launch(kernels.paste_patches, pixels.shape[:3], arguments, stream=stream)

    def _check(self, count: int) -> None:
        if self.first + count > self.chosen.shape[0]:
            raise FeedError(f"a batch of {count} from patch {self.first} on is beyond the {self.chosen.shape[0]} there are")
