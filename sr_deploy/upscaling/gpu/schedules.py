"""Schedules that were measured on this machine: one JSON file per GPU, library, graph and size of frames."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_deploy.bundle import Bundle, graph_key, stored_as
from sr_deploy.card import Arithmetic
from sr_deploy.device import gpu
from sr_deploy.engines import Backend
from sr_deploy.engines.tensorrt.cache import default_folder, write_whole
from sr_deploy.engines.tensorrt.library import FLAVOURS, load_library
from sr_deploy.errors import EngineError, warn_once
from sr_deploy.upscaling.gpu.frames import Schedule, size_class

FORMAT = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduleKey:
    """What a measurement holds for; another driver or library may be faster another way.

    graph: sha256 of the ONNX file that runs.
    """

    gpu: str
    capability: str
    driver: str
    backend: str
    version: str
    graph: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class KeptSchedule:
    """A schedule and what it reached: frames of `size` (width, height) per second, on so many GPUs like the key's."""

    key: ScheduleKey
    size: tuple[int, int]
    schedule: Schedule
    fps: float
    gpus: int
    name: str
    measured: str
    format: int = FORMAT


def default_schedules() -> Path:
    """The user's own folder of schedules."""
    return default_folder().with_name("schedules")


def schedule_key(bundle: Bundle, backend: Backend, precision: Arithmetic, number: int) -> ScheduleKey | None:
    """The key of a bundle on the GPU of that number; None where the driver shows no such GPU."""
    machine = gpu.survey()
    if number >= len(machine.gpus):
        return None
    found = machine.gpus[number]
    graph = bundle.graphs[graph_key(stored_as(precision), bundle.card.parts[0])]
    return ScheduleKey(found.name, found.capability, machine.driver, backend.name, _version(backend), graph.sha256)


def kept_schedules(bundle: Bundle, backend: Backend, precision: Arithmetic, number: int) -> dict[int, Schedule]:
    """What was measured for a bundle on the GPU of that number, by size class."""
    key = schedule_key(bundle, backend, precision, number)
    return read_schedules(key, default_schedules()) if key else {}


def keep_schedule(kept: KeptSchedule, folder: Path) -> Path:
    """Write a schedule into `folder`, in place of an earlier one for frames of about that size; returns its path.

    Raises: EngineError when it cannot be written.
    """
    width, height = kept.size
    path = folder / f"{kept.key.digest}-{size_class(height, width)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise EngineError(f"{folder}: cannot be made ({exc.strerror}); point XDG_CACHE_HOME to another folder") from exc
    write_whole(path, (json.dumps(dataclasses.asdict(kept), indent=1, ensure_ascii=False) + "\n").encode())
    return path


def read_schedules(key: ScheduleKey, folder: Path) -> dict[int, Schedule]:
    """The kept schedules of that key, by size class. A file that cannot be read counts as none, and is told once."""
    found = {}
    for path in sorted(folder.glob(f"{key.digest}-*.json")):
        try:
            (width, height), schedule = _read(path, key)
            found[size_class(height, width)] = schedule
        except (OSError, ValueError, TypeError, KeyError) as exc:
            warn_once(_log, f"{path}: not a kept schedule ({type(exc).__name__}: {exc}); run `sr-deploy tune` again")
    return found


def _read(path: Path, key: ScheduleKey) -> tuple[tuple[int, int], Schedule]:
    """Size and schedule of a file. Raises: OSError, ValueError, TypeError, KeyError."""
    table: Any = json.loads(path.read_text(encoding="utf-8"))
    if table["format"] != FORMAT or table["key"] != dataclasses.asdict(key):
        raise ValueError("another format or another key")
    width, height = table["size"]
    schedule = Schedule(**table["schedule"] | {"options": tuple(table["schedule"]["options"])})
    numbers = (width - 1, height - 1, schedule.tile, schedule.batch - 1, schedule.slots - 1)
    if not all(type(number) is int and number >= 0 for number in numbers) or not set(map(type, schedule.options)) <= {str}:
        raise ValueError("numbers that cannot be")
    return (width, height), schedule


def _version(backend: Backend) -> str:
    """Of the backend's library; '' where it has none."""
    flavour = next((flavour for flavour in FLAVOURS if flavour.name == backend.name), None)
    if flavour is not None:
        return load_library(flavour).version
    try:
        return str(importlib.import_module(backend.module).__version__)
    except (ImportError, AttributeError):
        return ""
