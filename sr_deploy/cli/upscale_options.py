"""What `upscale` was asked for, and what that means to the library."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sr_deploy.bundle import PrecisionChoice

if TYPE_CHECKING:
    from sr_deploy.pictures.size import TargetSize
    from sr_deploy.video.options import VideoOptions

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class UpscaleOptions:
    """The parameters of the command, by their names; None where an option was not given.

    Raises: click.UsageError for those that do not go together.
    """

    inputs: tuple[Path, ...]
    more_inputs: tuple[Path, ...]
    as_json: bool
    no_progress: bool
    progress: Literal["bar", "line", "json"] | None
    profile: bool

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

    quality: int | None
    strip_metadata: bool
    mask_out: Path | None

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
    on_failure: Literal["raise", "bicubic"]
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
        if self.output == "-" and self.as_json:
            raise click.UsageError("-o - and --json both want stdout; give one of them.")

    @property
    def all_inputs(self) -> tuple[Path, ...]:
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

    def video(self) -> VideoOptions:
        """How videos are made. Raises: UsageError."""
        from sr_deploy.video.options import VideoOptions

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

    def engine(self) -> dict[str, Any]:
        """The arguments of an Upscaler: those of the target, and what was given wins over it. Raises: UsageError."""
        chosen: dict[str, Any] = {"backend": "auto", "precision": "auto", "tile": None, "memory": None, "threads": None}
        if self.target:
            from sr_deploy.engines.tensorrt.target import load_target

            target = load_target(self.target)
            chosen = {name: getattr(target, name) for name in chosen}
        chosen |= {name: getattr(self, name) for name in chosen if getattr(self, name) is not None}
        return {
            "backend": chosen["backend"],
            "precision": "fp32" if self.fp32 else chosen["precision"],
            "tile": "auto" if chosen["tile"] is None else chosen["tile"],
            "on_failure": self.on_failure,
            "memory": None if chosen["memory"] is None else chosen["memory"] * MEGABYTE,
            "threads": chosen["threads"],
            "allow_cpu": self.allow_cpu,
            "gpus": self.gpus,
        }
