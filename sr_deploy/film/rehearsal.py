"""A whole run with one black frame: what would fail at its end fails before its beginning."""

from __future__ import annotations

import numpy as np

from sr_deploy.errors import VideoError
from sr_deploy.film.plan import VideoPlan, container_of
from sr_deploy.video.check import AGAIN, Expected, check_result
from sr_deploy.video.frame import Frame
from sr_deploy.video.input import Input
from sr_deploy.video.join import join
from sr_deploy.video.segment import OpenEncoder, SegmentWriter, segment_suffix


def rehearse(plan: VideoPlan, video: Input, start_pts: int, encoder: OpenEncoder | None) -> None:
    """Write a frame and the first packet of every stream that is copied as the target will be; check and remove it.

    Raises: VideoError naming what the container or the encoder does not take or keep.
    """
    out, encoding, streams = plan.output.format, plan.output.encoding, plan.output.streams
    segment = plan.part / f"joined.trial{segment_suffix(encoding)}"
    trial = plan.part / f"joined.trial{plan.target.suffix}"
    black = np.zeros((out.height, out.width, 3), np.uint8 if out.depth == 8 else np.uint16)
    try:
        with SegmentWriter(segment, out, encoding, encoder) as writer:
            writer.write(Frame(black, start_pts))
            writer.close()
        joined = join([segment], trial, out, encoding, streams, source=container_of(video), survey=plan.survey, trial=True)
        check_result(trial, Expected.of(out, encoding, streams, joined))
    except VideoError as exc:
        reason = str(exc).removeprefix(f"{trial}: ").replace(AGAIN, "use .mkv, or another --codec")
        raise VideoError(f"{plan.target}: tried with one frame, and it would not be right: {reason}") from exc
    finally:
        segment.unlink(missing_ok=True)
        trial.unlink(missing_ok=True)
