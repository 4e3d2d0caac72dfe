"""Options of `upscale` that were given and do nothing for the inputs of this run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click
from click.core import ParameterSource

from sr_deploy.batch.naming import Job, Plan
from sr_deploy.pictures.formats.encode import LOSSY_SUFFIXES


class IdleOptions:
    """Tells, once it is planned what becomes what, which of the given options are for something else, a line each."""

    def __init__(self, ctx: click.Context, *, pictures: Sequence[str], videos: Sequence[str], whole_images: bool) -> None:
        """ctx: of the command. pictures, videos: parameters for these alone. whole_images: the network takes no tiles."""
        self._given = {
            parameter.name or "": _name(parameter, ctx.params.get(parameter.name or ""))
            for parameter in ctx.command.params
            if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        }
        self._output = ctx.params.get("output")
        self._pictures, self._videos, self._whole_images = pictures, videos, whole_images

    def __call__(self, plan: Plan) -> Iterator[str]:
        pictures = [job for job in plan.jobs if not job.video]
        if plan.jobs and not pictures:
            yield from self._line(self._pictures, "pictures, and there are none")
        if plan.jobs and len(pictures) == len(plan.jobs):
            yield from self._line(self._videos, "videos, and there are none")
        if pictures and not any(job.target.suffix.lower() in LOSSY_SUFFIXES for job in pictures):
            yield from self._line(["quality"], f"lossy formats ({', '.join(LOSSY_SUFFIXES)}), and no picture becomes one")
        if any(self._is_named(job) for job in plan.jobs):
            yield from self._line(["suffix"], "results that -o does not name")
        if self._whole_images:
            yield from self._line(["tile"], "networks that take tiles, and a mask-guided one takes whole images")

    def _line(self, names: Iterable[str], purpose: str) -> Iterator[str]:
        if given := [self._given[name] for name in names if name in self._given]:
            yield f"{', '.join(given)}: without effect here, for {purpose}"

    def _is_named(self, job: Job) -> bool:
        return self._output is not None and str(job.target) == self._output


def _name(parameter: click.Parameter, value: object) -> str:
    """What was typed, in its long form."""
    names = parameter.secondary_opts if value is False and parameter.secondary_opts else parameter.opts
    return max(names, key=len)
