"""Interlaced frames -> progressive ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph

from sr_deploy.errors import VideoError


def deinterlaced(frames: Iterable[av.VideoFrame], time_base: Fraction, every: bool) -> Iterator[av.VideoFrame]:
    """As many frames with the same pts, made whole by bwdif; `every`: also those not flagged interlaced."""
    graph = None
    times: list[tuple[int | None, int]] = []
    for frame in frames:
        graph = graph or _bwdif(frame, time_base, every)
        times.append((frame.pts, frame.duration))
        graph.vpush(frame)
        yield from _pulled(graph, times)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph, times)


def _bwdif(frame: av.VideoFrame, time_base: Fraction, every: bool) -> Graph:
    graph = Graph()
    try:
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        bwdif = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={'all' if every else 'interlaced'}")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    except (av.FFmpegError, ValueError) as exc:
        size = f"{frame.width}x{frame.height} {frame.format.name}"
        raise VideoError(f"Frames of {size} cannot be deinterlaced: {exc}. Switch deinterlacing off.") from exc
    return graph


def _pulled(graph: Graph, times: list[tuple[int | None, int]]) -> Iterator[av.VideoFrame]:
    """What the filter has ready, with the times of the frames that went in: it gives one for one, in order."""
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        frame.pts, frame.duration = times.pop(0)
        yield frame
