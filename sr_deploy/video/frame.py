"""What flows through the video pipeline: frames with their time, and what a stream says of its frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

from sr_deploy.arrays import Array


@dataclass(frozen=True)
class ColorTags:
    """The color tags of a stream, as the numbers of ITU-T H.273 and FFmpeg; 2 is unspecified, for the range 0.

    matrix: 0 RGB, 1 BT.709, 5 and 6 BT.601, 9 BT.2020. range: 1 limited, 2 full. They are written as they were read; what an
    untagged stream is taken for stands elsewhere.
    """

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2
    chroma_location: int = 0


@dataclass(frozen=True)
class VideoFormat:
    """What the frames of a stream are, before rotation and pixel aspect are applied.

    width, height: in pixels, after cropping. pixel_format: FFmpeg's name, such as 'yuv420p10le'. depth: bits per component.
    time_base: seconds per tick of all pts and durations. rate: frames per second as the stream says, a hint for the encoder and
    never a source of time stamps. sample_aspect: width of a pixel by its height, None when unknown. display_matrix: the nine
    numbers of the container, None without rotation. mastering, light: static HDR metadata as FFmpeg stores it.
    """

    width: int
    height: int
    pixel_format: str
    depth: int
    time_base: Fraction
    rate: Fraction | None = None
    tags: ColorTags = ColorTags()
    sample_aspect: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    field_order: Literal["progressive", "top first", "bottom first"] = "progressive"
    mastering: bytes | None = None
    light: bytes | None = None

    def scaled(self, width: int, height: int) -> VideoFormat:
        """The same for upscaled frames."""
        return replace(self, width=width, height=height)


@dataclass(frozen=True)
class Frame:
    """One picture and when it is shown.

    pixels: (H,W,3) RGB, full range, uint8 for 8-bit streams, uint16 (0 to 65535) for deeper ones. Between decoder and encoder
        also the codes that an encoder takes, (n,), plane by plane without padding, in the host's memory or on a GPU, and what a
        decoder gives, (1,H,W,3) on a GPU, uint8 or fp32 in [0,1].
    pts: when it is shown, in ticks of the stream's time base.
    duration: in the same ticks; 0 is unknown.
    """

    pixels: Array
    pts: int
    duration: int = 0


class FrameUpscaler(Protocol):
    """What upscales frames: an Upscaler, or any callable from (H,W,3) to (sH,sW,3), uint8 or uint16, with its `scale`."""

    @property
    def scale(self) -> int: ...

    def __call__(self, image: Array, /) -> Array: ...
