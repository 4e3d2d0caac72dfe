"""Planes of YCbCr codes <-> RGB on a device: what decoders give and encoders take, without a way over the host.

    planes = DevicePlanes(device, PlaneFormat((1080, 1920), "nv12", Meaning(BT709, full=False)))
    codes = planes.empty()                    # one flat array, laid out as FFmpeg lays out a frame without padding
    planes.from_rgb(large, codes)             # (1,H,W,3) uint8, or fp16 or fp32 in [0,1] -> codes
    planes.to_rgb(codes, frame)               # and back

Nothing here allocates while it runs, so that a CUDA graph can record it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.device.device import Device, DeviceArray, describe
from sr_deploy.device.streams import Stream
from sr_deploy.device.ycbcr import (
    ACROSS_BITS,
    DOWN_BITS,
    FIXED,
    LOCATIONS,
    Meaning,
    Taps,
    coarser_taps,
    finer_taps,
    fixed_point,
    same_taps,
    to_codes,
    to_rgb,
    with_less,
)
from sr_deploy.errors import FeedError, UsageError

_USUAL_LOCATION = 1

_MakeMatrix = Callable[[Meaning, int, int], NDArray[np.float32]]

_WHITE_READ = {"uint8": 255, "float16": 65535, "float32": 65535}
_WHITE_WRITTEN = {"uint8": 255, "float16": 1, "float32": 1}
"""By the dtype of a frame: floats are rounded to 16 bits before they become codes, as they are on the host."""


@dataclass(frozen=True)
class _PlaneLayout:
    """down, across: luma samples per chroma sample. depth: bits per code, `padding` zeros below them. paired: Cb beside Cr."""

    down: int
    across: int
    depth: int
    padding: int = 0
    paired: bool = False


LAYOUTS = {
    "nv12": _PlaneLayout(2, 2, 8, paired=True),
    "p010le": _PlaneLayout(2, 2, 10, 6, paired=True),
    "p012le": _PlaneLayout(2, 2, 12, 4, paired=True),
    "nv16": _PlaneLayout(1, 2, 8, paired=True),
    "p210le": _PlaneLayout(1, 2, 10, 6, paired=True),
    "yuv444p10msble": _PlaneLayout(1, 1, 10, 6),
    "yuv444p12msble": _PlaneLayout(1, 1, 12, 4),
    "yuv420p": _PlaneLayout(2, 2, 8),
    "yuv422p": _PlaneLayout(1, 2, 8),
    "yuv444p": _PlaneLayout(1, 1, 8),
    "yuv420p10le": _PlaneLayout(2, 2, 10),
    "yuv422p10le": _PlaneLayout(1, 2, 10),
    "yuv444p10le": _PlaneLayout(1, 1, 10),
    "yuv420p12le": _PlaneLayout(2, 2, 12),
    "yuv422p12le": _PlaneLayout(1, 2, 12),
    "yuv444p12le": _PlaneLayout(1, 1, 12),
}
"""The pixel formats that the kernels read and write, by FFmpeg's names."""


@dataclass(frozen=True)
class PlaneFormat:
    """What the planes of a frame are.

    size: (H,W) of luma; chroma sides are rounded up. pixel_format: one of LAYOUTS. location: where chroma lies, as FFmpeg
    numbers it; 0, not told, is left. on_device: whether an upscaler leaves its results on its GPU, each in an array of its own.

    Raises: UsageError for another pixel format.
    """

    size: tuple[int, int]
    pixel_format: str
    meaning: Meaning
    location: int = 0
    on_device: bool = False

    def __post_init__(self) -> None:
        if self.pixel_format not in LAYOUTS:
            raise UsageError(f"no kernels for the pixel format '{self.pixel_format}'; expected one of {', '.join(LAYOUTS)}")

    @property
    def layout(self) -> _PlaneLayout:
        return LAYOUTS[self.pixel_format]

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Of its codes."""
        return np.dtype(np.uint8) if self.layout.depth == 8 else np.dtype(np.uint16)

    @property
    def chroma_size(self) -> tuple[int, int]:
        height, width = self.size
        return -(-height // self.layout.down), -(-width // self.layout.across)

    @property
    def count(self) -> int:
        """Codes of all planes together."""
        (height, width), (low, narrow) = self.size, self.chroma_size
        return height * width + 2 * low * narrow


class DevicePlanes:
    """Turns planes of one format into RGB and back, one frame at a time, on one stream at a time.

    Codes are a flat array, or luma (H,W) and chroma (h,w,2) of any strides, as a decoder's surface has them. Codes are rounded
    half to even and clamped to their depth, RGB in uint8 too; in floats it is clamped to [0,1]. Between 8 bits and 8 bits the
    arithmetic is OpenCV's, in fixed point, and floats are rounded to 16 bits first: films have the codes that the host makes.

    Raises: OutOfMemoryError, EngineError.
    """

    def __init__(self, device: Device, format: PlaneFormat) -> None:
        self.format = format
        self._device = device
        layout = format.layout
        right, below = LOCATIONS.get(format.location, LOCATIONS[_USUAL_LOCATION])
        self._finer = [
            self._filter(finer_taps(place, bits) if factor == 2 else same_taps(bits))
            for factor, place, bits in ((layout.across, right, ACROSS_BITS), (layout.down, below, DOWN_BITS))
        ]
        self._coarser = [
            self._filter(coarser_taps(place, bits) if factor == 2 else same_taps(bits))
            for factor, place, bits in ((layout.across, right, ACROSS_BITS), (layout.down, below, DOWN_BITS))
        ]

        self._to_rgb = {dtype: self._matrix(to_rgb, dtype, white) for dtype, white in _WHITE_WRITTEN.items()}
        self._to_codes = {dtype: self._matrix(to_codes, dtype, white) for dtype, white in _WHITE_READ.items()}

    def empty(self) -> DeviceArray:
        """A flat array for the codes of one frame, of undefined contents.

        Raises: OutOfMemoryError.
        """
        return self._device.empty((self.format.count,), self.format.dtype)

    def empty_frame(self) -> DeviceArray:
        """(1,H,W,3) for the pixels of one frame, of undefined contents: uint8 for 8-bit codes, fp32 for deeper ones.

        Raises: OutOfMemoryError.
        """
        height, width = self.format.size
        if self.format.layout.depth == 8:
            return self._device.empty((1, height, width, 3), np.uint8)
        return self._device.empty((1, 3, height, width), np.float32).transpose((0, 2, 3, 1))

    def planes(self, codes: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        """Luma (H,W) and chroma (h,w,2) of a flat array: views of it.

        Raises: FeedError.
        """
        format = self.format
        if codes.shape != (format.count,) or codes.dtype.__name__ != format.dtype.name:
            raise FeedError(f"{describe(codes)} are no codes of {format.pixel_format}; expected {format.dtype}[{format.count}]")
        height, width = format.size
        low, narrow = format.chroma_size
        luma, chroma = codes[: height * width], codes[height * width :]
        if format.layout.paired:
            return luma.reshape((height, width)), chroma.reshape((low, narrow, 2))
        return luma.reshape((height, width)), chroma.reshape((2, low, narrow)).transpose((1, 2, 0))

    def to_rgb(self, codes: DeviceArray, frame: DeviceArray, *, stream: Stream = None) -> None:
        """Fill `frame` (1,H,W,3), uint8, or fp16 or fp32 in [0,1], from flat codes.

        Raises: FeedError, EngineError.
        """
        self.surface_to_rgb(*self.planes(codes), frame, stream=stream)

    def surface_to_rgb(self, luma: DeviceArray, chroma: DeviceArray, frame: DeviceArray, *, stream: Stream = None) -> None:
        """The same from luma (H,W) and chroma (h,w,2).

        Raises: FeedError, EngineError.
        """
        from sr_deploy.device import video_kernels

        pixels, matrix = self._pixels(frame), self._to_rgb[frame.dtype.__name__]
        self._check(luma, chroma)
        depth, padding = self.format.layout.depth, self.format.layout.padding
        across, down = self._finer
        wide = self._wide
        self._device.launch(
            video_kernels.chroma_across, wide.shape[:2], [chroma, *across, padding, depth - 1, wide], stream=stream
        )
        self._device.launch(
            video_kernels.rgb_from_codes,
            self.format.size,
            [luma, wide, *down, padding, depth, *matrix, pixels],
            stream=stream,
        )

    def from_rgb(self, frame: DeviceArray, codes: DeviceArray, *, stream: Stream = None) -> None:
        """Fill flat codes from `frame` (1,H,W,3), uint8, or fp16 or fp32 in [0,1].

        Raises: FeedError, EngineError.
        """
        from sr_deploy.device import video_kernels

        pixels, (matrix, fixed) = self._pixels(frame), self._to_codes[frame.dtype.__name__]
        luma, chroma = self.planes(codes)
        depth, padding = self.format.layout.depth, self.format.layout.padding
        across, down = self._coarser
        narrow, top = self._narrow, float(2**depth - 1)
        level = [pixels, matrix, top, fixed]
        self._device.launch(video_kernels.luma_from_rgb, self.format.size, [*level, padding, luma], stream=stream)
        self._device.launch(
            video_kernels.chroma_across_from_rgb,
            narrow.shape[:2],
            [*level, *across, depth - 1, narrow],
            stream=stream,
        )
        self._device.launch(video_kernels.chroma_down, chroma.shape[:2], [narrow, *down, padding, depth, chroma], stream=stream)

    @functools.cached_property
    def _wide(self) -> DeviceArray:
        return self._device.empty((self.format.chroma_size[0], self.format.size[1], 2), np.int16)

    @functools.cached_property
    def _narrow(self) -> DeviceArray:
        return self._device.empty((self.format.size[0], self.format.chroma_size[1], 2), np.int16)

    def _matrix(self, make: _MakeMatrix, dtype: str, white: int) -> tuple[DeviceArray, float]:
        """For frames of that dtype, and what stands for 1 in it, 0 where it is in floating point."""
        depth = self.format.layout.depth
        matrix = make(self.format.meaning, depth, white)
        if dtype == "uint8" and depth == 8:
            return self._device.array(fixed_point(matrix)), float(FIXED)
        leads_to_floats = make is to_rgb and dtype != "uint8"
        return self._device.array(matrix if leads_to_floats else with_less(matrix)), 0.0

    def _filter(self, taps: Taps) -> tuple[int, DeviceArray, DeviceArray]:
        return taps.step, self._device.array(taps.starts), self._device.array(taps.weights)

    def _pixels(self, frame: DeviceArray) -> DeviceArray:
        """(H,W,3) of a frame."""
        if frame.shape != (1, *self.format.size, 3) or frame.dtype.__name__ not in _WHITE_READ:
            sides = ", ".join(map(str, self.format.size))
            raise FeedError(f"{describe(frame)} is no frame of these planes; expected uint8, float16 or float32[1, {sides}, 3]")
        return frame[0]

    def _check(self, luma: DeviceArray, chroma: DeviceArray) -> None:
        wanted, found = (self.format.size, (*self.format.chroma_size, 2)), (luma.shape, chroma.shape)
        names = {luma.dtype.__name__, chroma.dtype.__name__}
        if wanted != found or names != {self.format.dtype.name}:
            raise FeedError(
                f"{describe(luma)} and {describe(chroma)} are no planes of {self.format.pixel_format}; "
                f"expected {self.format.dtype} of {list(wanted[0])} and {list(wanted[1])}"
            )
