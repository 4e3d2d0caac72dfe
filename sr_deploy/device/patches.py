"""Selection of patches by their scores, their crops and their pixels, on a device.

    selector = PatchSelector(device, count, room=240)   # of so many patches, up to 240
    selector.take(scores, wanted)                       # or take_from(scores, threshold)
    batch = PatchBatch(device, selector.chosen, 0, across)
    batch.crop(features, masked, crops)                 # then an engine refines the crops
    batch.paste(pixels, refined, frame, health)

Nothing here allocates while it runs, so that a CUDA graph can record it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sr_deploy.card import Masked
from sr_deploy.device.device import Device, DeviceArray, describe
from sr_deploy.device.streams import Stream
from sr_deploy.errors import FeedError


class PatchSelector:
    """Selects among `patches` scores; of equal ones the earlier come first, NaN is never selected.

    room: how many are selected at most (default: all).
    """

    def __init__(self, device: Device, patches: int, *, room: int | None = None) -> None:
        from sr_deploy.device import selection_kernels as kernels

        self._device = device
        self._patches = patches
        self._bits = 2 * math.ceil(max(1, (patches - 1).bit_length()) / 2)
        self._least = device.empty((1,), "uint64")
        self._counts = device.empty((math.ceil(patches / kernels.PART),), "int32")
        self.chosen = device.empty((patches if room is None else room,), "int32")
        """Numbers of the selected patches in rising order, then -1."""
        self.count = device.empty((1,), "int32")
        """How many are selected."""

    def take(self, scores: DeviceArray, wanted: int, *, stream: Stream = None) -> None:
        """Select the `wanted` highest of `scores` (patches,) float32.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.device import selection_kernels as kernels

        self._check(scores, min(wanted, self._patches))
        self._device.launch_blocks(kernels.find_least, 1, [scores, wanted, self._bits, self._least], stream=stream)
        self._write(scores, stream)

    def take_from(self, scores: DeviceArray, threshold: float, *, stream: Stream = None) -> None:
        """Select all of `scores` (patches,) float32 that are at least the threshold.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.device import selection_kernels as kernels

        self._check(scores, self._patches)
        self._device.launch_blocks(kernels.set_least, 1, [threshold, self._bits, self._least], stream=stream)
        self._write(scores, stream)

    def _write(self, scores: DeviceArray, stream: Stream) -> None:
        from sr_deploy.device import selection_kernels as kernels

        (parts,), arguments = self._counts.shape, [scores, self._least, self._bits, self._counts]
        self._device.launch_blocks(kernels.count_parts, parts, arguments, stream=stream)
        self._device.launch_blocks(kernels.write_parts, parts, [*arguments, self.chosen, self.count], stream=stream)

    def _check(self, scores: DeviceArray, selected: int) -> None:
        if scores.shape != (self._patches,) or scores.dtype.__name__ != "float32":
            raise FeedError(f"{describe(scores)} are no scores; expected float32[{self._patches}]")
        if selected > self.chosen.shape[0]:
            raise FeedError(f"up to {selected} patches may be selected; expected {self.chosen.shape[0]} at most, its room")


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
        from sr_deploy.device import patch_kernels as kernels

        self._check(crops.shape[0])
        shape = (crops.shape[0], features.shape[0], masked.side, masked.side)
        if crops.shape != shape:
            raise FeedError(f"{describe(crops)} cannot hold crops of {describe(features)}; expected {list(shape)}")
        arguments = [features, self.chosen, self.first, self.across, masked.patch, masked.padding, crops]
        self.device.launch(kernels.crop_patches, shape, arguments, stream=stream)

    def paste(
        self, pixels: DeviceArray, refined: DeviceArray, frame: DeviceArray, health: DeviceArray, *, stream: Stream = None
    ) -> None:
        """Put those of the pixels (B,side,side,C) uint8 in their place in the frame (sH,sW,C) uint8 that are sane.

        refined: their health (B,), which has to suit the frame, coarse as yet. `health` (1,) becomes NaN when one does not.

        Raises: FeedError, EngineError.
        """
        from sr_deploy.device import patch_kernels as kernels

        self._check(pixels.shape[0])
        if refined.shape != pixels.shape[:1] or frame.shape[2:] != pixels.shape[3:]:
            raise FeedError(f"{describe(pixels)} do not suit {describe(frame)} and the health {describe(refined)}")
        arguments = [pixels, refined, self.chosen, self.first, self.across, frame, health]
        self.device.launch_blocks(kernels.paste_patches, pixels.shape[0], arguments, stream=stream)

    def _check(self, count: int) -> None:
        if self.first + count > self.chosen.shape[0]:
            raise FeedError(f"a batch of {count} from patch {self.first} on is beyond the {self.chosen.shape[0]} there are")
