"""Static HDR metadata: what FFmpeg stores -> numbers, and the words of encoders."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

from sr_deploy.video.frame import VideoFormat


def add_hdr(options: dict[str, str], out: VideoFormat, parameters: str | None) -> None:
    """Put the static HDR metadata of a stream into an encoder's options; parameters: the option that takes it, if one does."""
    if parameters is None:
        return
    words = {
        "x264-params": ("mastering-display", "cll", "grid"),
        "x265-params": ("master-display", "max-cll", "grid"),
        "svtav1-params": ("mastering-display", "content-light", "real"),
    }[parameters]
    texts = [options[parameters]] if parameters in options else []
    if mastering := mastering_numbers(out.mastering):
        texts.append(f"{words[0]}={_mastering_text(mastering, words[2] == 'grid')}")
    if light := light_numbers(out.light):
        texts.append(f"{words[1]}={light[0]},{light[1]}")
    if texts:
        options[parameters] = ":".join(texts)


def _mastering_text(values: tuple[Fraction, ...], grid: bool) -> str:
    """G, B, R, white point and luminance: in steps of 1/50000 and 1/10000 as in SEI messages, or as real numbers."""
    red, green, blue, white = (values[i : i + 2] for i in (0, 2, 4, 6))
    low, high = values[8:]

    def pair(numbers: Any, steps: int) -> str:
        return ",".join(str(round(number * steps)) if grid else f"{float(number):.6f}" for number in numbers)

    names = zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True)
    return "".join(f"{name}({pair(point, 50000)})" for name, point in names) + f"L({pair((high, low), 10000)})"


def mastering_numbers(mastering: bytes | None) -> tuple[Fraction, ...] | None:
    """Red, green, blue and white as x and y, then lowest and highest luminance in cd/m2; None unless complete."""
    if mastering is None or len(mastering) < 88:
        return None
    *numbers, primaries, luminance = struct.unpack("=22i", mastering[:88])
    if not primaries or not luminance or not all(numbers[1::2]):
        return None
    return tuple(Fraction(*numbers[i : i + 2]) for i in range(0, 20, 2))


def light_numbers(light: bytes | None) -> tuple[int, int] | None:
    """The largest luminance of a pixel and the largest mean of a frame, in cd/m2."""
    if light is None or len(light) < 8:
        return None
    content, average = struct.unpack("=2I", light[:8])
    return content, average
