"""Build and run targets: one TOML per machine class, in the top-level folder engines/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_deploy.settings import load_toml


@dataclass(frozen=True)
class Target:
    """How a class of machines runs bundles. `tile` 0 is the whole image; `memory` is in MB."""

    name: str
    backend: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tile: int | None = None
    memory: int | None = None
    threads: int | None = None


def load_target(path: Path) -> Target:
    """Read a target file. Raises: UsageError."""
    return load_toml(path, Target)
