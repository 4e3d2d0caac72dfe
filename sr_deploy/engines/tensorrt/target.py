"""Build and run targets: one TOML per machine class, in the top-level folder engines/ and in the wheel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.card import PrecisionChoice
from sr_deploy.device import gpu
from sr_deploy.engines.tensorrt import library as libraries
from sr_deploy.errors import BackendUnavailableError, UsageError
from sr_deploy.settings import find_toml, load_toml

JETSON = frozenset(("8.7", "10.1", "11.0"))
"""Compute capabilities of Orin and Thor, whose memory is the CPU's too."""

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


@dataclass(frozen=True)
class BuildSettings:
    """How engines are compiled for these machines; sizes are 'WIDTHxHEIGHT' of the input.

    An engine takes every size from `min` to `max` and is fastest at `opt`, or takes `static` alone. `batch` is the most images
    at once. `compute_capabilities`: what TensorRT for RTX compiles for, such as '8.9'. `workspace` is in MB.
    """

    min: str = "64x64"
    opt: str = "960x540"
    max: str = "1920x1920"
    static: str | None = None
    batch: int = 1
    compute_capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Smallest, usual and largest (width, height).

        Raises: UsageError for a text that is no size, or sizes that do not grow.
        """
        if self.static is not None:
            return (parse_size(self.static),) * 3
        least, usual, largest = parse_size(self.min), parse_size(self.opt), parse_size(self.max)
        if not all(a <= b <= c for a, b, c in zip(least, usual, largest, strict=True)):
            raise UsageError(f"sizes {self.min}, {self.opt}, {self.max}: expected min <= opt <= max in width and in height")
        return least, usual, largest


@dataclass(frozen=True)
class Target:
    """How a class of machines runs bundles. `tile` 0 is the whole image; `memory` is in MB."""

    name: str
    backend: str = "auto"
    precision: PrecisionChoice = "auto"
    tile: int | None = None
    memory: int | None = None
    threads: int | None = None
    build: BuildSettings | None = None


def load_target(target: str | Path) -> Target:
    """Read a target: a TOML file, or the name of one that comes with sr-deploy, such as `rtx`. Raises: UsageError."""
    return load_toml(find_toml(target, "engines"), Target)


def usual_target() -> str:
    """The name of the target for this machine: as a run does, TensorRT before TensorRT for RTX where there is a GPU.

    Without a GPU, or without TensorRT, it is `rtx`, which is built on any machine.
    """
    gpus = gpu.survey().gpus
    if not gpus or not _is_installed(libraries.TENSORRT):
        return "rtx"
    return "jetson" if gpus[0].capability in JETSON else "datacenter"


def _is_installed(flavour: libraries.Flavour) -> bool:
    try:
        libraries.load_library(flavour)
    except BackendUnavailableError:
        return False
    return True


def parse_size(text: str) -> tuple[int, int]:
    """'960x540' -> (960, 540), width and height.

    Raises: UsageError.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or not (int(match[1]) and int(match[2])):
        raise UsageError(f"size '{text}': expected WIDTHxHEIGHT, such as 960x540")
    return int(match[1]), int(match[2])
