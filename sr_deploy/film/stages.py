"""What a frame goes through between its source and its segment; every fault gets the frame's number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.device import DeviceArray
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import CancelledError, OutOfMemoryError
from sr_deploy.film.journal import Journal, segment_path
from sr_deploy.film.output import Output
from sr_deploy.pictures.resample import resample
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, Stats
from sr_deploy.upscaling.reuse import FrameReuse, ReuseStats
from sr_deploy.upscaling.upscaler import Upscaler
from sr_deploy.video.frame import Frame, FrameUpscaler, VideoFormat
from sr_deploy.video.segment import OpenEncoder, Segment, SegmentWriter, segment_suffix

Numbered = tuple[int, Frame]
"""A frame and its number in the video, from 0."""


class Frames(Protocol):
    """Something that gives a video's frames, all or those after one of them."""

    def frames(self, after: int | None = None) -> Iterator[Frame]: ...


def require_going(cancel: threading.Event | None) -> None:
    """Raises: CancelledError once another thread has set the event."""
    if cancel is not None and cancel.is_set():
        raise CancelledError("stopped as asked; finished segments are kept, the same call goes on")


def missing_frames(source: Frames, journal: Journal, per_segment: int, cancel: threading.Event | None) -> Iterator[Numbered]:
    """The frames of all segments that are not finished, in order."""
    for gap in journal.gaps():
        limit = None if gap.count is None else gap.count * per_segment
        yield from numbered(islice(source.frames(after=gap.after), limit), gap.first * per_segment, cancel)


def numbered(frames: Iterable[Frame], number: int, cancel: threading.Event | None) -> Iterator[Numbered]:
    """The frames with their numbers."""
    iterator = iter(frames)
    while True:
        with at_frame(number, "reading"):
            require_going(cancel)
            try:
                frame = next(iterator)
            except StopIteration:
                return
        yield number, frame
        del frame
        number += 1


class FrameNetwork:
    """An upscaler for consecutive frames; of an Upscaler's frames, what did not change is reused.

    Nothing is reused across segments of `per_segment` frames, so that a run that goes on at one computes what it would have.
    planes: what an Upscaler gives in place of RGB where it can.
    """

    def __init__(self, upscaler: FrameUpscaler, *, reuse: bool, per_segment: int, planes: PlaneFormat | None = None) -> None:
        self._upscaler = upscaler
        self._per_segment = per_segment
        self._planes = planes
        self._reuse = FrameReuse(upscaler, enabled=reuse, planes=planes) if isinstance(upscaler, Upscaler) else None
        self._call: Callable[[Array], Array] = self._reuse or upscaler
        self._before = self._seen()

    def __call__(self, number: int, pixels: Array) -> Array:
        if self._reuse is not None and number % self._per_segment == 0:
            self._reuse.restart()
        return self._call(pixels) if isinstance(pixels, np.ndarray) else self._of_device(pixels)

    def _of_device(self, pixels: DeviceArray) -> Array:
        """A frame that lies on a GPU, upscaled; nothing of it is compared with the frame before."""
        from sr_deploy.video.nvcodec import host_pixels

        assert isinstance(self._upscaler, Upscaler) and self._planes is not None
        with contextlib.suppress(OutOfMemoryError):
            codes = self._upscaler._run_from_device(pixels, self._planes)
            if codes is not None:
                return codes
        return self._call(host_pixels(pixels))

    @property
    def concurrency(self) -> int:
        return self._upscaler.concurrency if isinstance(self._upscaler, ImageUpscaler) else 1

    @property
    def reuse(self) -> ReuseStats | None:
        return self._reuse.stats if self._reuse else None

    @property
    def stats(self) -> Stats:
        """What the sentinel saw of these frames."""
        return self._seen() - self._before

    def _seen(self) -> Stats:
        return self._upscaler.stats if isinstance(self._upscaler, ImageUpscaler) else Stats()


class Enlarging:
    """Upscales frames and brings them to the size of `out`; equal results in a row are resized once."""

    def __init__(self, upscale: Callable[[int, Array], Array], out: VideoFormat, cancel: threading.Event | None) -> None:
        self._upscale = upscale
        self._size = out.height, out.width
        self._cancel = cancel
        self._last: tuple[Array, Array] | None = None

    def __call__(self, item: Numbered) -> Numbered:
        number, frame = item
        with at_frame(number, "upscaling"):
            require_going(self._cancel)
            return number, replace(frame, pixels=self._resized(self._upscale(number, frame.pixels)))

    def _resized(self, large: Array) -> Array:
        if large.ndim == 1 or large.shape[:2] == self._size:
            return large
        last = self._last
        if last is None or last[0] is not large:
            self._last = last = large, resample(large, self._size)
        return last[1]


class SegmentOutput:
    """Writes frames into segments of equal length, at the numbers where they belong; one thread at a time.

    folder: of the segments. output: what is written. encoder: by default FFmpeg's. written: called with each frame's number
    after it was written. finished: with each segment and its number when its file is complete.
    """

    def __init__(
        self,
        folder: Path,
        output: Output,
        encoder: OpenEncoder | None = None,
        *,
        written: Callable[[int], None],
        finished: Callable[[int, Segment], None],
    ) -> None:
        self._folder = folder
        self._output = output
        self._encoder = encoder
        self._written = written
        self._finished = finished
        self._index = -1
        self._writer: SegmentWriter | None = None

    def write(self, item: Numbered) -> None:
        """Raises: VideoError when the encoder or the disk refuses."""
        number, frame = item
        with at_frame(number, "writing"):
            index, output = number // self._output.per_segment, self._output
            if index != self._index:
                self.finish()
                self._index = index
                path = segment_path(self._folder, index, segment_suffix(output.encoding))
                self._writer = SegmentWriter(path, output.format, output.encoding, self._encoder)
            assert self._writer is not None
            self._writer.write(frame)
            if (number + 1) % output.per_segment == 0:
                self.finish()
        self._written(number)

    def finish(self) -> None:
        """Close the segment that is open, if one is.

        Raises: VideoError when the encoder or the disk refuses.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            self._finished(self._index, writer.close())

    def abort(self) -> None:
        """Remove the segment that is open."""
        if self._writer is not None:
            self._writer.abort()


@contextlib.contextmanager
def at_frame(number: int, doing: str) -> Iterator[None]:
    """Puts the frame's number on what is raised inside."""
    try:
        yield
    except Exception as exc:
        exc.add_note(f"frame {number}, {doing}")
        raise
