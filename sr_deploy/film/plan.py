"""Everything that a video run decides before its first frame, as plain values: by it any process computes any segment."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_deploy.errors import UsageError, VideoError
from sr_deploy.files import growing
from sr_deploy.film.options import VideoOptions
from sr_deploy.film.output import Output
from sr_deploy.pictures.image import PICTURES_THAT_MOVE
from sr_deploy.settings import from_table, to_table
from sr_deploy.video.frame import VideoFormat
from sr_deploy.video.input import Input
from sr_deploy.video.survey import PacketSurvey

PLAN = "plan.json"


@dataclass(frozen=True)
class PlannedSegment:
    """Frames that follow each other, by their times in ticks of the source.

    frames: how many.
    first: pts of the first.
    last: pts of the last.
    after: pts of the frame before the first, None at the beginning.
    """

    frames: int
    first: int
    last: int
    after: int | None = None


@dataclass(frozen=True)
class VideoPlan:
    """What a video becomes, and how: made by `plan_video`, kept as plan.json in TARGET.part.

    source: path or address of the video.
    target: the file to be.
    options: how it is read, upscaled and written.
    format: of the frames of the source.
    output: what is written: format, encoding, other streams, frames per segment.
    survey: what all packets of the source tell.
    identity: what pixels and packets depend on; who computes a segment has to have the same.
    notes: what a user should know, in sentences.
    segments: in their order.
    network: what opens the network, for `open_upscaler`; empty where the caller opens it.
    """

    source: str
    target: Path
    options: VideoOptions
    format: VideoFormat
    output: Output
    survey: PacketSurvey
    identity: dict[str, Any]
    notes: tuple[str, ...] = ()
    segments: tuple[PlannedSegment, ...] = ()
    network: dict[str, Any] | None = None

    @property
    def part(self) -> Path:
        """The folder of the segments, beside the target."""
        return part_of(self.target)

    @property
    def frames(self) -> int:
        """How many there will be."""
        return sum(segment.frames for segment in self.segments)

    def segment(self, index: int) -> PlannedSegment:
        """One of the segments.

        index: its number, from 0.

        Raises: UsageError when there is none of that number.
        """
        if not 0 <= index < len(self.segments):
            raise UsageError(f"segment {index}: there is none; the plan has {len(self.segments)}, the first is 0")
        return self.segments[index]

    def save(self) -> Path:
        """Write it into its folder. Raises: VideoError when the disk refuses."""
        path = self.part / PLAN
        try:
            with growing(path) as file:
                file.write(json.dumps(to_table(self)).encode() + b"\n")
        except OSError as exc:
            raise VideoError(f"{path}: cannot be written ({exc.strerror or exc}); free space or check the folder") from exc
        return path

    @classmethod
    def load(cls, path: str | Path) -> VideoPlan:
        """The plan of a file, of its folder, or of the target beside it.

        The target is beside the folder that the plan is found in, wherever that is mounted.

        Raises: UsageError when there is none or it is damaged.
        """
        path = Path(path)
        places = [path, path / PLAN, part_of(path) / PLAN]
        found = next((place for place in places if place.is_file() and place.name == PLAN), None)
        if found is None:
            raise UsageError(f"{path}: no plan there; expected plan.json or its folder, as `sr-deploy plan` writes it")
        try:
            table = json.loads(found.read_bytes())
        except (OSError, ValueError) as exc:
            raise UsageError(f"{found}: cannot be read as a plan ({exc}); plan again") from exc
        if not isinstance(table, dict):
            raise UsageError(f"{found}: is no plan; plan again")
        plan = from_table(table, cls, where=str(found))
        folder = found.absolute().parent
        return replace(plan, target=folder.with_name(folder.name.removesuffix(".part")))


def part_of(target: Path) -> Path:
    """The folder beside a target that holds what is finished of it."""
    return target.with_name(target.name + ".part")


def container_of(source: Input) -> Input | None:
    """The input whose other streams are copied; pictures have none, and those of a pipe are not known."""
    pictures = source.pipe or source.is_pattern or source.suffix in PICTURES_THAT_MOVE | {".apng"}
    return None if pictures or source.begins_as_webp() else source
