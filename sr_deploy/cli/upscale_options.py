"""The options of `upscale`: the values they take, what they mean to the library, and which do nothing for the inputs given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from sr_deploy.batch import UpscalerSpec
from sr_deploy.card import PrecisionChoice
from sr_deploy.models import DEFAULT, RESTORER, find, is_checkpoint, is_in_the_box, portable_name, resolve

if TYPE_CHECKING:
    from sr_deploy.batch.folder import WriteOptions
    from sr_deploy.batch.jobs import Job, Plan
    from sr_deploy.film.options import VideoOptions
    from sr_deploy.pictures.size import TargetSize

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """The parameters of the command, by their names; None where an option was not given.

    Raises: click.UsageError for those that do not go together.
    """

    inputs: tuple[str | Path, ...]
    more_inputs: tuple[str | Path, ...] = ()
    as_json: bool
    no_progress: bool = False
    progress: Literal["bar", "line", "json"] | None = None
    profile: bool = False

    model: str | None
    base: str | None
    refine: str | None
    budget: float | None
    patches: dict[str, Any] | None

    output: str | None
    outscale: float | None
    to_size: str | None
    extension: str | None
    suffix: str | None
    overwrite: bool
    shard: tuple[int, int] | None = None

    on: Literal["ray"] | None = None
    address: str | None = None
    workers: int | None = None
    worker_cpus: int = 2
    worker_gpus: int = 0

    quality: int | None = None
    strip_metadata: bool = False
    mask_out: Path | None = None
    preview: Fraction | None = None

    codec: str | None
    crf: float | None
    preset: str | None
    pixel_format: str | None
    encoder_options: tuple[tuple[str, str], ...]
    start: Fraction | None
    until: Fraction | None
    fps: Fraction | None
    deinterlace: Literal["auto", "on", "off"]
    decode: Literal["auto", "cpu", "nvdec"]
    no_reuse: bool
    drop_unsupported: bool
    on_damage: Literal["raise", "skip"]
    resume: bool

    backend: str | None
    gpus: tuple[int, ...] | None
    allow_cpu: bool
    precision: PrecisionChoice | None
    fp32: bool
    on_failure: Literal["raise", "bicubic"] | None
    strict: bool
    tile: int | Literal["auto"] | None
    memory: int | None
    threads: int | None
    target: Path | None

    def __post_init__(self) -> None:
        if not self.all_inputs:
            raise click.UsageError("Missing INPUT: name at least one image, video or folder.")
        whole = self.base is not None and self.refine is not None
        some = whole or any(given is not None for given in (self.base, self.refine, self.budget))
        if some and (not whole or self.model is not None or self.patches is not None):
            raise click.UsageError("A pair is --base and --refine, and --budget; without -m and -k.")
        if self.outscale is not None and self.to_size is not None:
            raise click.UsageError("-s and --to contradict each other; give one of them.")
        if self.fp32 and self.precision not in (None, "fp32"):
            raise click.UsageError(f"--fp32 and --precision {self.precision} contradict each other; give one of them.")
        if self.strict and self.on_failure == "bicubic":
            raise click.UsageError("--strict and --on-failure bicubic contradict each other; give one of them.")
        pipe = self.output == "-" or Path("-") in self.all_inputs
        if self.on and (pipe or any(one is not None for one in (self.mask_out, self.shard, self.preview))):
            raise click.UsageError("--on: pipes, --mask-out, --shard and --preview are for one process; leave them out.")
        if self.output == "-" and self.as_json:
            raise click.UsageError("-o - and --json both want stdout; give one of them.")

    @property
    def all_inputs(self) -> tuple[str | Path, ...]:
        """The arguments and those given as options."""
        return self.inputs + self.more_inputs

    @property
    def report(self) -> str | None:
        """How progress is shown: 'none', or as asked."""
        return "none" if self.no_progress else self.progress

    def size(self) -> TargetSize | None:
        """What results are resampled to. Raises: UsageError."""
        if self.outscale is None and self.to_size is None:
            return None
        from sr_deploy.pictures.size import TargetSize

        return TargetSize.parse(self.to_size) if self.to_size is not None else TargetSize.of_factor(self.outscale or 0)

    def output_path(self) -> Path | None:
        """The output; a slash at its end says that it is a folder, whatever its name looks like."""
        if self.output is None:
            return None
        path = Path(self.output)
        if self.output.endswith(("/", "\\")) and not path.exists():
            path.mkdir(parents=True)
        return path

    def writing(self) -> WriteOptions:
        """How pictures are written."""
        from sr_deploy.batch.folder import WriteOptions

        return WriteOptions(self.quality, self.strip_metadata, self.overwrite)

    def video(self) -> VideoOptions:
        """How videos are made. Raises: UsageError."""
        from sr_deploy.film.options import VideoOptions

        return VideoOptions(
            start=self.start,
            until=self.until,
            deinterlace=self.deinterlace,
            decode=self.decode,
            on_damage=self.on_damage,
            fps=self.fps,
            codec=self.codec,
            crf=self.crf,
            preset=self.preset,
            pixel_format=self.pixel_format,
            encoder_options=self.encoder_options,
            reuse=not self.no_reuse,
            drop_unsupported=self.drop_unsupported,
            resume=self.resume,
        )

    def spec(self, size: TargetSize | None) -> UpscalerSpec:
        """What upscales, of a family in the box the network for the factor that is wanted; what was given wins over the target.

        Raises: UsageError.
        """
        factor = _factor(size)
        name, base = (model and ready_model(model, self.report) for model in (self.refine or self.model, self.base))
        chosen: dict[str, Any] = {"backend": "auto", "precision": "auto", "tile": None, "memory": None, "threads": None}
        if self.target:
            from sr_deploy.engines.tensorrt.target import load_target

            target = load_target(self.target)
            chosen = {name: getattr(target, name) for name in chosen}
        chosen |= {name: getattr(self, name) for name in chosen if getattr(self, name) is not None}
        return UpscalerSpec(
            portable_name(find(DEFAULT, factor) if name is None else resolve(name, factor)),
            base=base and portable_name(base),
            budget=self.budget,
            patches=self.patches,
            backend=chosen["backend"],
            precision="fp32" if self.fp32 else chosen["precision"],
            tile="auto" if chosen["tile"] is None else chosen["tile"],
            on_failure="raise" if self.strict else self.on_failure or "bicubic",
            memory=None if chosen["memory"] is None else chosen["memory"] * MEGABYTE,
            threads=chosen["threads"],
            allow_cpu=self.allow_cpu,
            gpus=self.gpus,
        )

    def restorer(self, spec: UpscalerSpec, size: TargetSize | None) -> UpscalerSpec | None:
        """What upscales pictures that lost much to their compression, where no network was named and the box has one."""
        if self.model is not None or self.refine is not None or not is_in_the_box(RESTORER):
            return None
        return replace(spec, model=portable_name(find(RESTORER, _factor(size))))


def _factor(size: TargetSize | None) -> float | None:
    return size.numbers[0] if size is not None and size.kind == "factor" else None


def ready_model(model: str, report: str | None = None) -> str:
    """What was given; of a checkpoint its bundle, which is made when it is first used. report: how that is told."""
    if not is_checkpoint(model):
        return model
    from sr_deploy.cli.export import bundle_of

    return str(bundle_of(Path(model), report))


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

    def any_given(self, names: Iterable[str]) -> bool:
        """Whether one of these parameters stood on the command line."""
        return any(name in self._given for name in names)

    def __call__(self, plan: Plan) -> Iterator[str]:
        from sr_deploy.pictures.formats.encode import LOSSY_SUFFIXES

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
