"""Maps of what is refined first, for `upscale --mask-out`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from sr_deploy.arrays import Array
from sr_deploy.batch.jobs import Job
from sr_deploy.batch.naming import Naming, plan_jobs
from sr_deploy.errors import SrDeployError
from sr_deploy.masked.masked_upscaler import MaskedUpscaler, write_heat
from sr_deploy.pictures.image import read_image
from sr_deploy.pictures.picture import Picture


class HeatMaps:
    """Writes the map of each picture into `folder` once it is upscaled, from what that left; problems are told by `say`."""

    def __init__(
        self, upscaler: MaskedUpscaler, inputs: Sequence[str | Path], folder: Path, say: Callable[[str], object]
    ) -> None:
        self._upscaler = upscaler
        self._say = say
        self._targets = {job.source: job.target for job in plan_jobs(inputs, folder, Naming("mask", "", "", "png")).jobs}

    def __call__(self, job: Job, picture: Picture) -> None:
        self._write(job, lambda: self._upscaler.last_heat(picture.pixels))

    def of_skipped(self, jobs: Iterable[Job]) -> None:
        """The maps of pictures that an earlier run upscaled: their networks run for the map alone."""
        for job in jobs:
            if not job.video:
                self._write(job, partial(self._heat_of, job.location))

    def _heat_of(self, source: str | Path) -> Array:
        return self._upscaler.heat(read_image(source).pixels)

    def _write(self, job: Job, heat: Callable[[], Array]) -> None:
        target = self._targets[job.source]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_heat(target, heat(), self._upscaler.scale)
        except (SrDeployError, OSError) as exc:
            self._say(f"note: no map of {job.source} ({exc})")
