"""Frames to write, and whole runs of the writing side without a network: pixels doubled, settings that are fast."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.video.check import Expected
from sr_deploy.video.encoding import Encoding, choose_encoding
from sr_deploy.video.frame import Frame, VideoFormat
from sr_deploy.video.input import input_of
from sr_deploy.video.join import Joined, join
from sr_deploy.video.segment import Segment, SegmentWriter, segment_suffix
from sr_deploy.video.streams import StreamPlan, plan_streams
from tests.video import clips

FAST = {"libx264": "ultrafast", "libx265": "ultrafast", "libsvtav1": "12", "libvpx-vp9": "8"}


def picture(number: int, width: int = 64, height: int = 48, dtype: type = np.uint8) -> NDArray[Any]:
    """(H,W,3): a gradient with a bright box that moves, another one for every number."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 200 // max(width, 1), y * 200 // max(height, 1), np.full_like(x, number * 9 % 200)], -1)
    pixels[number % height : number % height + 8, number % width : number % width + 8] = 240
    return pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)


def video_format(**facts: Any) -> VideoFormat:
    """64x48 yuv420p at 25 frames per second, but for what is given."""
    plain: dict[str, Any] = {
        "width": 64,
        "height": 48,
        "pixel_format": "yuv420p",
        "depth": 8,
        "time_base": Fraction(1, 90000),
        "rate": Fraction(25),
    }
    return VideoFormat(**plain | facts)


def fast_encoding(out: VideoFormat, container: str = ".mkv", codec: str = "libx264", **settings: Any) -> Encoding:
    """The encoding that is chosen, at its fastest preset."""
    settings.setdefault("preset", FAST.get(codec))
    return choose_encoding(out, out, container, codec=codec, **settings)


def write_segments(
    folder: Path, out: VideoFormat, encoding: Encoding, pts: list[int], per_segment: int, last: int = 0
) -> list[Segment]:
    """Finished segments of `per_segment` frames each."""
    folder.mkdir(exist_ok=True)
    dtype = np.uint16 if out.depth > 8 else np.uint8
    segments = []
    for begin in range(0, len(pts), per_segment):
        with SegmentWriter(folder / f"{begin:06d}{segment_suffix(encoding)}", out, encoding) as writer:
            for number in range(begin, min(begin + per_segment, len(pts))):
                duration = pts[number + 1] - pts[number] if number + 1 < len(pts) else last
                writer.write(Frame(picture(number, out.width, out.height, dtype), pts[number], duration))
            segments.append(writer.close())
    return segments


@dataclass(frozen=True)
class Run:
    """A finished file with all that it was made of."""

    target: Path
    segments: list[Segment]
    plan: StreamPlan
    joined: Joined
    expected: Expected


def written(
    folder: Path,
    source: Path | None = None,
    container: str = ".mkv",
    codec: str = "libx264",
    *,
    out: VideoFormat | None = None,
    pts: list[int] | None = None,
    start: Fraction | None = None,
    until: Fraction | None = None,
    drop_unsupported: bool = False,
    **settings: Any,
) -> Run:
    """A video with the times and the streams of the source, pixels of ours, in segments of 10 frames."""
    out = out or (video_format() if source is None else source_format(source))
    if pts is None:
        pts = [pts for pts in clips.pts_of(source) if pts is not None] if source else [number * 3600 for number in range(24)]
    pts = [
        one for one in pts if (start is None or one * out.time_base >= start) and (until is None or one * out.time_base < until)
    ]
    encoding = fast_encoding(out, container, codec, **settings)
    plan = plan_streams(input_of(source) if source else None, container, out, encoding, drop_unsupported=drop_unsupported)
    plan.require()
    segments = write_segments(folder / "segments", out, encoding, pts, 10)
    target = folder / f"é 漢字 [x] 'q'{container}"
    joined = join(
        [s.path for s in segments],
        target,
        out,
        encoding,
        plan,
        source=input_of(source) if source else None,
        start=start,
        until=until,
    )
    return Run(target, segments, plan, joined, Expected.of(out, encoding, plan, joined))


def source_format(source: Path) -> VideoFormat:
    """What ffprobe says of the first video stream that is no cover, as 8-bit 4:2:0."""
    stream = next(s for s in clips.streams(source) if s["codec_type"] == "video" and not s["disposition"]["attached_pic"])
    num, den = (int(part) for part in stream.get("sample_aspect_ratio", "0:1").split(":"))
    return video_format(
        time_base=Fraction(stream["time_base"]),
        rate=Fraction(stream["avg_frame_rate"]) if stream["avg_frame_rate"] != "0/0" else None,
        sample_aspect=Fraction(num, den) if num else None,
    )
