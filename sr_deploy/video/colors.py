"""Planes of a decoded frame <-> RGB, with the matrix and range of the stream and no detour over fewer bits.

libswscale changes only how densely chroma is sampled, and keeps its place; the matrix of ITU-T H.273 is applied here and
rounded once. Its own conversion to 16-bit RGB takes white for 65280, and is three codes off for full-range 10-bit video.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from sr_deploy.arrays import Array
from sr_deploy.device.video_planes import LAYOUTS, PlaneFormat
from sr_deploy.device.ycbcr import BT601, BT709, LUMA, YCGCO, Meaning, gray_to_white, to_codes, to_rgb
from sr_deploy.errors import VideoError
from sr_deploy.video.frame import ColorTags, VideoFormat

LIMITED, FULL = 1, 2
DEPTHS = (8, 9, 10, 12, 14, 16)
FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
THREADS = 4
GRAPHS = 8
"""Filters that a thread keeps: one reads and one writes, and a few are spare."""

LOCATIONS = {1: "left", 2: "center", 3: "topleft", 4: "top", 5: "bottomleft", 6: "bottom"}
SHORTEST = 16
"""Sides of frames from which on FFmpeg's filter of chroma has its full length."""

RAMP = np.arange(60, 188, 8, dtype=np.uint8)
PLACES = {(0, -2): 1, (0, 0): 3, (-2, 0): 4, (0, -4): 5, (-2, -4): 6}
"""Locations by how much less than its own value a sample of luma sees of the ramps across and down."""

_local = threading.local()


@dataclass(frozen=True)
class SampleLayout:
    """What a pixel format holds; depth: bits per component; work: the planar format without subsampling that holds the same."""

    kind: Literal["rgb", "yuv", "gray"]
    depth: int
    work: str


@lru_cache(maxsize=64)
def layout_of(pixel_format: str) -> SampleLayout:
    """What a pixel format of FFmpeg holds.

    Raises: VideoError for formats whose pixels are neither RGB, YUV nor gray.
    """
    described = av.VideoFormat(pixel_format, 16, 16)
    bits = max(component.bits for component in described.components)
    depth = next((depth for depth in DEPTHS if depth >= bits), 16)
    suffix = "" if depth == 8 else f"{depth}le"
    if pixel_format.startswith("xyz") or not described.components:
        raise VideoError(f"Frames of the pixel format {pixel_format} cannot be converted. Convert the file to yuv444p12 first.")
    if described.is_rgb or described.has_palette:
        return SampleLayout("rgb", depth, "gbrp" + suffix)
    if len(described.components) <= 2:
        return SampleLayout("gray", depth, "gray" + suffix)
    return SampleLayout("yuv", depth, "yuv444p" + suffix)


def meaning_of(tags: ColorTags, pixel_format: str, height: int) -> Meaning:
    """What the codes of frames mean: as tagged, and where nothing is tagged as players take them.

    That is BT.709 from 720 lines on, else BT.601; limited range, but full for gray pictures.
    """
    matrix = tags.matrix
    if matrix not in LUMA and matrix != YCGCO:
        matrix = BT709 if height >= 720 else BT601
    if pixel_format.startswith("yuvj"):
        return Meaning(matrix, full=True)
    if tags.range == 0:
        return Meaning(matrix, full=layout_of(pixel_format).kind == "gray")
    return Meaning(matrix, full=tags.range == FULL)


def rgb_from_frame(frame: av.VideoFrame, format: VideoFormat) -> Array:
    """The pixels of a frame of that stream: (H,W,3) RGB, uint8 for 8-bit frames, else uint16 of 0 to 65535; the caller's.

    Alpha is dropped. Raises: VideoError when FFmpeg cannot convert the frame.
    """
    layout = layout_of(frame.format.name)
    peak = 255 if layout.depth == 8 else 65535
    meaning = meaning_of(format.tags, frame.format.name, format.height)
    planes = [
        samples_of(plane, layout.depth)
        for plane in _reformatted(frame, layout.work, meaning, format.tags.chroma_location).planes
    ]
    if layout.kind == "rgb":
        green, blue, red = planes
        rgb = cv2.merge([red, green, blue])
        return rgb if layout.depth in (8, 16) else cv2.transform(rgb, _scaling(65535 / (2**layout.depth - 1)))
    if layout.kind == "gray":
        gray = cv2.transform(planes[0], gray_to_white(meaning.full, layout.depth, peak))
        return cv2.merge([gray, gray, gray])
    return cv2.transform(cv2.merge(planes), to_rgb(meaning, layout.depth, peak))


def frame_from_rgb(pixels: Array, format: VideoFormat) -> av.VideoFrame:
    """A frame of that pixel format, with its color tags set, without time.

    pixels: (H,W,3) RGB, uint8 or uint16 of 0 to 65535. Raises: VideoError when FFmpeg cannot convert to the format.
    """
    layout = layout_of(format.pixel_format)
    meaning = meaning_of(format.tags, format.pixel_format, format.height)
    work = av.VideoFrame(pixels.shape[1], pixels.shape[0], layout.work)
    for plane, codes in zip(work.planes, _codes(pixels, layout, meaning), strict=True):
        np.copyto(samples_of(plane, layout.depth), codes, casting="unsafe")
    return _tagged(_reformatted(work, format.pixel_format, meaning, format.tags.chroma_location), format.tags)


def frame_from_codes(codes: Array, format: VideoFormat) -> av.VideoFrame:
    """A frame of that pixel format from its codes (n,), plane by plane without padding; with its color tags, without time."""
    frame = av.VideoFrame(format.width, format.height, format.pixel_format)
    begin = 0
    for plane in frame.planes:
        view = samples_of(plane, format.depth)
        view[...] = codes[begin : begin + view.size].reshape(view.shape)
        begin += view.size
    return _tagged(frame, format.tags)


def codes_from_frame(frame: av.VideoFrame) -> Array:
    """All codes of a frame of one of LAYOUTS (n,), plane by plane without padding."""
    layout = LAYOUTS[frame.format.name]
    views = [samples_of(plane, layout.depth, 2 if index and layout.paired else 1) for index, plane in enumerate(frame.planes)]
    return np.concatenate([view.ravel() for view in views])


def plane_format_of(format: VideoFormat) -> PlaneFormat | None:
    """The format in which a GPU may write its codes; None where chroma would not be what the host makes of it.

    That is where sides are odd or so short that FFmpeg's filter is another one, and in pixel formats without kernels.
    """
    layout = LAYOUTS.get(format.pixel_format)
    if layout is None or layout.paired or layout.padding:
        return None
    sampled = [side for side, factor in ((format.height, layout.down), (format.width, layout.across)) if factor > 1]
    if any(side % 2 or side < SHORTEST for side in sampled):
        return None
    meaning = meaning_of(format.tags, format.pixel_format, format.height)
    return PlaneFormat((format.height, format.width), format.pixel_format, meaning, format.tags.chroma_location)


def _codes(pixels: Array, layout: SampleLayout, meaning: Meaning) -> list[NDArray[Any]]:
    """The planes of the work format, as uint8 or uint16."""
    peak = 255 if pixels.dtype == np.uint8 else 65535
    top = 2**layout.depth - 1
    wide = pixels if layout.depth == 8 or pixels.dtype == np.uint16 else pixels.astype(np.uint16)
    if layout.kind == "rgb":
        red, green, blue = cv2.split(wide if peak == top else cv2.transform(wide, _scaling(top / peak)))
        return [green, blue, red]
    matrix = to_codes(meaning, layout.depth, peak)
    if layout.kind == "gray":
        return [cv2.transform(wide, matrix[:1])]
    codes = cv2.transform(wide, matrix)
    if meaning.full and layout.depth > 8:
        # Chroma of a pure blue or red rounds to one more than there is.
        np.minimum(codes, top, out=codes)
    return list(cv2.split(codes))


def _tagged(frame: av.VideoFrame, tags: ColorTags) -> av.VideoFrame:
    frame.colorspace, frame.color_range = tags.matrix, tags.range
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    return frame


def _reformatted(frame: av.VideoFrame, pixel_format: str, meaning: Meaning, location: int) -> av.VideoFrame:
    """The frame with its chroma sampled as that format does: the same matrix and range on both sides, so no color changes."""
    if frame.format.name == pixel_format:
        return frame
    try:
        graph = _graph(frame.width, frame.height, frame.format.name, pixel_format, meaning.full, location)
        graph.vpush(frame)
        return graph.vpull()
    except (av.FFmpegError, ValueError) as exc:
        _local.__dict__.clear()
        raise VideoError(f"FFmpeg cannot convert frames from {frame.format.name} to {pixel_format}: {exc}.") from exc


def _graph(width: int, height: int, source: str, target: str, full: bool, location: int) -> Graph:
    """A filter that this thread keeps: unlike the bare conversion of a frame it heeds where chroma samples lie."""
    kept: dict[str, Graph] = _local.__dict__
    key = str((width, height, source, target, full, location))
    if key in kept:
        return kept[key]
    if len(kept) >= GRAPHS:
        kept.clear()
    graph = Graph()
    graph.threads = THREADS
    code = "full" if full else "limited"
    scale = f"in_color_matrix=bt709:out_color_matrix=bt709:in_range={code}:out_range={code}:flags={FLAGS}"
    place = LOCATIONS.get(location, "left")
    scale += f":in_chroma_loc={place}:out_chroma_loc={place}"
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=av.VideoFormat(source), time_base=Fraction(1, 25)),
        graph.add("scale", scale),
        graph.add("format", f"pix_fmts={target}"),
        graph.add("buffersink"),
    ).configure()
    kept[key] = graph
    return graph


def chroma_location_of(frame: av.VideoFrame) -> int:
    """Where the chroma samples of a 4:2:0 frame lie, as FFmpeg numbers it; 0 where it is not told, and for other formats.

    PyAV has no name for it, but its own conversion heeds it, so it is seen by what becomes of two ramps. In the middle, where
    JPEG has them, looks as if nothing was told.
    """
    if "420" not in frame.format.name:
        return 0
    probe = frame.reformat(width=32, height=32, format="yuv420p", dst_color_range=FULL, src_color_range=FULL)
    probe.make_writable()
    for plane, ramp in zip(probe.planes[1:], (RAMP[None, :], RAMP[:, None]), strict=True):
        samples_of(plane, 8)[:] = ramp
    seen = probe.reformat(
        format="yuv444p",
        interpolation=Interpolation.BICUBIC,
        src_colorspace=BT709,
        dst_colorspace=BT709,
        src_color_range=FULL,
        dst_color_range=FULL,
    )
    across, down = (int(samples_of(plane, 8)[16, 16]) - int(RAMP[8]) for plane in seen.planes[1:])
    return PLACES.get((across, down), 0)


def samples_of(plane: Any, depth: int, beside: int = 1) -> NDArray[Any]:
    """The samples of a plane without its padding, `beside` of them a pixel, top row first; a view of the frame's memory."""
    dtype = np.dtype(np.uint8 if depth == 8 else "<u2")
    rows = np.frombuffer(plane, dtype).reshape(plane.height, abs(plane.line_size) // dtype.itemsize)[:, : plane.width * beside]
    return rows[::-1] if plane.line_size < 0 else rows


def _scaling(factor: float) -> NDArray[np.float32]:
    return (np.eye(3) * factor).astype(np.float32)
