"""What a run writes, settled before the first frame: its size, its encoding, its other streams, its space on the disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import VideoError
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling.image_upscaler import ImageUpscaler
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.colors import plane_format_of
from sr_deploy.video.encoding import Encoding, encoded_format
from sr_deploy.video.frame import FrameUpscaler, VideoFormat
from sr_deploy.video.streams import StreamPlan

_BITS_PER_PIXEL = {"ffv1": 8.0, "prores_ks": 4.0}
_USUAL_BITS_PER_PIXEL = 0.1
_HOPELESS = 20
"""Where less than this part of the usual size is free, a run is refused: no picture is that simple all through."""


_SHORTEST_SEGMENT, _LONGEST_SEGMENT = 12, 240
_SEGMENT_WORK = 60 * 40e9
"""Multiply-accumulates of a segment: what two cores with AVX2 do in about a minute, 20e9 a second each with OpenVINO."""


@dataclass(frozen=True)
class Output:
    """What is written, and how: settled before the first frame."""

    format: VideoFormat
    encoding: Encoding
    streams: StreamPlan
    per_segment: int

    @property
    def encoded(self) -> VideoFormat:
        """What the written stream is."""
        return encoded_format(self.format, self.encoding)


def planes_for(upscaler: FrameUpscaler, source: VideoFormat, out: VideoFormat) -> PlaneFormat | None:
    """What the encoder takes, where a GPU can give it: frames that are not resized afterwards."""
    scale = upscaler.scale
    if not isinstance(upscaler, Upscaler) or not upscaler._gives_planes:
        return None
    if (out.height, out.width) != (source.height * scale, source.width * scale):
        return None
    return plane_format_of(out)


def segment_frames(upscaler: FrameUpscaler, source: VideoFormat) -> int:
    """How many frames a stop costs at most: by a rule and never by a measured time, so that all runs have equal segments."""
    if not isinstance(upscaler, ImageUpscaler):
        return _LONGEST_SEGMENT
    card = upscaler.bundle.card
    each = (card.macs + (card.masked.macs if card.masked else 0)) * source.width * source.height
    return max(_SHORTEST_SEGMENT, min(_LONGEST_SEGMENT, int(_SEGMENT_WORK / max(each, 1))))


def enlarged(source: VideoFormat, scale: int, size: TargetSize | None) -> VideoFormat:
    """The format of the result. Its matrix says how the picture is turned, but not where it lies: that was in old pixels."""
    height, width = _size(source, scale, size)
    out = source.scaled(width, height)
    if source.display_matrix is None:
        return out
    return replace(out, display_matrix=(*source.display_matrix[:6], 0, 0, *source.display_matrix[8:]))


def _size(source: VideoFormat, scale: int, size: TargetSize | None) -> tuple[int, int]:
    """Height and width of the result as stored; a size that was asked for is that of the picture as shown, in even sides."""
    height, width = source.height, source.width
    if size is None or size.kind == "own":
        return height * scale, width * scale
    turned = source.display_matrix is not None and source.display_matrix[0] == 0
    sides = size.resolve(*((width, height) if turned else (height, width)), scale)
    tall, wide = (max(2, round(side / 2) * 2) for side in sides)
    return (wide, tall) if turned else (tall, wide)


def space_notes(target: Path, frames: int | None, output: Output) -> tuple[str, ...]:
    """What to say of the space on the disk; the segments and the joined file lie there at the same time.

    Raises: VideoError when there is clearly not enough.
    """
    bits = _BITS_PER_PIXEL.get(output.encoding.codec, _USUAL_BITS_PER_PIXEL)
    needed = 2 * (frames or 0) * output.format.width * output.format.height * bits / 8
    there = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return ()
    text = f"{there}: {_space(free)} are free, a video like this usually takes {_space(needed)} while it is made"
    if free < needed / _HOPELESS:
        raise VideoError(f"{text}; free some space or write to another disk")
    return (text,)


def _space(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
