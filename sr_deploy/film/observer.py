"""How a run of a video is told, while it goes and afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_deploy.pipeline import Timing
from sr_deploy.upscaling.image_upscaler import Stats
from sr_deploy.video.frame import VideoFormat

if TYPE_CHECKING:
    from sr_deploy.upscaling.reuse import ReuseStats
    from sr_deploy.video.encoding import Encoding

_NO_TIMING = Timing(0, 0.0, 0.0, 0.0, 0.0)
_NO_STATS = Stats()


@dataclass(frozen=True)
class VideoStart:
    """What is about to run.

    source: the video, or pattern of pictures; its address, or what messages call it, where it has no path.
    target: the file to be.
    out: what its frames will be.
    encoding: None where frames are not encoded.
    frames: how many in all, None when unknown.
    resumed: those that an earlier run finished.
    notes: what is known already of those that the summary will have.
    """

    source: Path | str
    target: Path
    out: VideoFormat
    encoding: Encoding | None
    frames: int | None
    resumed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoProgress:
    """How far a run is.

    frames: finished ones, resumed ones included.
    bitrate: bits per second of the latest segment.
    """

    frames: int
    bitrate: float | None


def bitrate_of(size: int, ticks: int, time_base: Fraction) -> float | None:
    """Bits per second of so many bytes that are shown for so long; None for a single picture."""
    return float(8 * size / (ticks * time_base)) if ticks else None


class VideoObserver:
    """Is told how a run goes; does nothing by itself. `written` comes from the writer's thread."""

    def started(self, start: VideoStart) -> None:
        """Called once, before the first frame.

        start: what is about to run.
        """

    def written(self, progress: VideoProgress) -> None:
        """One more frame is written.

        progress: how far the run is.
        """


@dataclass(frozen=True)
class VideoSummary:
    """What became of a video.

    target: its file.
    status: 'done', or 'skipped' where the target was there.
    frames: of the target.
    resumed: those of them that earlier runs computed.
    bytes: size of the file.
    seconds: of this run, on the clock.
    timing: how long each stage was busy with this run's frames.
    notes: what could not be kept, or went another way, in sentences.
    reuse: None where nothing could be reused.
    stats: the sentinel's counts.
    """

    target: Path
    status: Literal["done", "skipped"]
    frames: int = 0
    resumed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    timing: Timing = _NO_TIMING
    notes: tuple[str, ...] = ()
    reuse: ReuseStats | None = None
    stats: Stats = _NO_STATS
