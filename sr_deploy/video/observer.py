"""How a run of a video is told, while it goes and afterwards."""

from __future__ import annotations

from dataclasses import dataclass
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

    frames: how many in all, None when unknown. resumed: those that an earlier run finished. encoding: None where frames are not
    encoded. notes: what is known already of those that the summary will have.
    """

    source: Path
    target: Path
    out: VideoFormat
    encoding: Encoding | None
    frames: int | None
    resumed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoProgress:
    """How far a run is. frames: finished ones, resumed ones included. bitrate: bits per second of the latest segment."""

    frames: int
    bitrate: float | None


class VideoObserver:
    """Is told how a run goes; does nothing by itself. `written` comes from the writer's thread."""

    def started(self, start: VideoStart) -> None:
        """Called once, before the first frame."""

    def written(self, progress: VideoProgress) -> None:
        """One more frame is written."""


@dataclass(frozen=True)
class VideoSummary:
    """What became of a video.

    frames: of the target; resumed: those of them that earlier runs computed. timing: of this run's frames. reuse: None where
    nothing could be reused. stats: the sentinel's counts.
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
