"""What the table `[degradation]` of a recipe says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sr_deploy.errors import UsageError

Range = tuple[float, float]
"""A value is drawn evenly from the first to the second."""

ResamplingKernel = Literal["area", "bilinear", "bicubic"]
ChromaSampling = Literal["4:4:4", "4:2:2", "4:2:0"]

LARGEST_SIGMA = 7.0
"""Of a blur, in pixels: its kernel has 43 then."""


@dataclass(frozen=True)
class Blur:
    """A Gaussian kernel. `probability` that there is one; `sigma` in pixels; `anisotropic`: share of those whose two sigmas are
    drawn apart and lie at any angle."""

    probability: float = 1.0
    sigma: Range = (0.2, 2.0)
    anisotropic: float = 0.0


@dataclass(frozen=True)
class Resampling:
    """`probability` of another size on the way to LR. `factor`: of the sides of the picture before it; in the last round, of
    LR's. Of `kernels` one is drawn, each as often as it is named, and so for LR's own size. `antialias`: share of bilinear
    and bicubic that widen when they shrink; area always does."""

    probability: float = 1.0
    factor: Range = (1.0, 1.0)
    kernels: tuple[ResamplingKernel, ...] = ("area", "bilinear", "bicubic")
    antialias: float = 1.0


@dataclass(frozen=True)
class Noise:
    """`probability` that there is any. `sigma` of Gaussian noise, white being 255; `poisson`: share that is shot noise instead,
    of `peak` photons at white. `gray`: share that is the same in all channels."""

    probability: float = 1.0
    sigma: Range = (1.0, 15.0)
    poisson: float = 0.0
    peak: Range = (100.0, 1000.0)
    gray: float = 0.5


@dataclass(frozen=True)
class Jpeg:
    """`probability` of a JPEG; `quality` of 1 to 100, as libjpeg has it. Of `subsampling` one is drawn, each as often as it is
    named."""

    probability: float = 1.0
    quality: tuple[int, int] = (30, 95)
    subsampling: tuple[ChromaSampling, ...] = ("4:2:0", "4:4:4")


@dataclass(frozen=True)
class VideoCompression:
    """`probability` of H.264 in 4:2:0 at `crf`, in place of the last JPEG: the picture is the last of `frames`, between which
    it moves by up to 2 pixels."""

    probability: float = 0.1
    crf: tuple[int, int] = (18, 32)
    frames: int = 3


@dataclass(frozen=True)
class DegradationRound:
    """Blur, another size, noise and JPEG, in this order; what is not named is left out."""

    blur: Blur | None = None
    resize: Resampling | None = None
    noise: Noise | None = None
    jpeg: Jpeg | None = None


@dataclass(frozen=True)
class Degradation:
    """How LR is made of HR. `clean`: share that is plain bicubic. `rounds` one after the other; the last ends in LR's size, and
    then its JPEG. `order`: 'shuffled' draws the order of all steps but that size and that JPEG. `video`: instead of that JPEG.

    Source: Wang et al., Real-ESRGAN, ICCVW 2021, for two rounds; Zhang et al., Designing a Practical Degradation Model for Deep
    Blind Image Super-Resolution, ICCV 2021, for the shuffled order.
    """

    rounds: tuple[DegradationRound, ...]
    clean: float = 0.0
    order: Literal["fixed", "shuffled"] = "fixed"
    video: VideoCompression | None = None


def check_degradation(settings: Degradation, where: str) -> None:
    """Raises: UsageError for a value that cannot be."""
    if not settings.rounds:
        raise UsageError(f"{where}: no rounds; write at least one [[degradation.rounds]] table")
    _check_shares(settings, ("clean",), where)
    for number, part in enumerate(settings.rounds, 1):
        _check_round(part, f"{where}: round {number}")
    if settings.video is not None:
        _check_shares(settings.video, ("probability",), f"{where}: video")
        _check_range(settings.video, "crf", 0, 51, f"{where}: video")
        if not 1 <= settings.video.frames <= 30:
            raise UsageError(f"{where}: video: frames {settings.video.frames}; expected 1 to 30")


def _check_round(part: DegradationRound, where: str) -> None:
    if part.blur is not None:
        _check_shares(part.blur, ("probability", "anisotropic"), f"{where}: blur")
        _check_range(part.blur, "sigma", 0.01, LARGEST_SIGMA, f"{where}: blur")
    if part.resize is not None:
        _check_shares(part.resize, ("probability", "antialias"), f"{where}: resize")
        _check_range(part.resize, "factor", 0.05, 4, f"{where}: resize")
        _check_choice(part.resize, "kernels", f"{where}: resize")
    if part.noise is not None:
        _check_shares(part.noise, ("probability", "poisson", "gray"), f"{where}: noise")
        _check_range(part.noise, "sigma", 0, 255, f"{where}: noise")
        _check_range(part.noise, "peak", 1, 1e6, f"{where}: noise")
    if part.jpeg is not None:
        _check_shares(part.jpeg, ("probability",), f"{where}: jpeg")
        _check_range(part.jpeg, "quality", 1, 100, f"{where}: jpeg")
        _check_choice(part.jpeg, "subsampling", f"{where}: jpeg")


def _check_shares(step: object, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if not 0 <= getattr(step, name) <= 1:
            raise UsageError(f"{where}: {name} {getattr(step, name):g} is no share; expected 0 to 1")


def _check_range(step: object, name: str, least: float, most: float, where: str) -> None:
    low, high = getattr(step, name)
    if not least <= low <= high <= most:
        raise UsageError(f"{where}: {name} [{low:g}, {high:g}]; expected two from {least:g} to {most:g}, the smaller first")


def _check_choice(step: object, name: str, where: str) -> None:
    if not getattr(step, name):
        raise UsageError(f"{where}: {name} names none; expected one at least")
