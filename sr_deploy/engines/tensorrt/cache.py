"""Engine files by what they were built from: an engine whose key is unchanged is never compiled twice.

FOLDER/
  3f8a0c61d2b4e7f0.engine   named by the sha256 of the whole key
  3f8a0c61d2b4e7f0.json     the key in clear, what goes in and out, and the engine's own hash
  timing-91bc04d2.cache     TensorRT's kernel timings, one per library version and GPU
  3f8a0c61d2b4e7f0-5d41402a.kernels  what TensorRT for RTX compiled on one GPU when it first ran this engine

A file appears under its name when it is complete. The JSON file is written last: an engine without it does not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sr_deploy import files
from sr_deploy.card import Precision
from sr_deploy.errors import EngineError, UsageError
from sr_deploy.settings import from_table

FORMAT = 1
ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of an input."""

_OURS = re.compile(r"(?P<stem>[0-9a-f]{16})\.(engine|json)|timing-[0-9a-f]{8}\.cache|[0-9a-f]{16}-[0-9a-f]{8}\.kernels")
_PART = re.compile(r"(?P<name>.+)\.part-(?P<pid>\d+)")


@dataclass(frozen=True)
class EngineKey:
    """All that decides what an engine is; `digest` is its short hash.

    `graph`: sha256 of the ONNX bytes that are compiled. `shapes`: smallest, usual and largest shape by input name. `flags`:
    what every build sets. `gpu`: name and compute capability, '' where the engine does not depend on them.
    """

    graph: str
    form: Literal["pixels", "plain"]
    precision: Precision
    shapes: dict[str, ShapeRange]
    library: str
    version: str
    flags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    workspace: int | None = None
    optimization_level: int | None = None
    gpu: str = ""

    @property
    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EngineRecord:
    """The JSON file beside an engine. `inputs` and `outputs` read as `pixels uint8[1, ?, ?, 3]`; scale 0 is not known."""

    name: str
    scale: int
    key: EngineKey
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    size: int = 0
    sha256: str = ""
    built: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class EngineFile:
    """An engine file, and what is wrong with it, '' when it is whole."""

    path: Path
    record: EngineRecord | None
    problem: str = ""


class EngineCache:
    """The engines of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: EngineKey) -> Path:
        """Where the engine of that key lies, or would lie."""
        return self.folder / f"{key.digest}.engine"

    def find(self, key: EngineKey) -> EngineFile | None:
        """The engine of that key, checked byte by byte; None when there is none."""
        path = self.path(key)
        if not path.is_file() and not path.with_suffix(".json").is_file():
            return None
        entry = read_entry(path)
        if entry.record is not None and entry.record.key != key:
            return EngineFile(path, entry.record, "its key is another one")
        return entry

    def store(self, record: EngineRecord, engine: bytes) -> EngineRecord:
        """Write an engine and its record, each at once or not at all; `size`, `sha256` and `built` are filled in.

        Raises: EngineError when the folder cannot be written.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = dataclasses.replace(record, size=len(engine), sha256=hashlib.sha256(engine).hexdigest(), built=now)
        text = json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False) + "\n"
        path = self.path(record.key)
        write_whole(path, engine)
        write_whole(path.with_suffix(".json"), text.encode())
        return record

    def timings(self, key: EngineKey) -> bytes:
        """The timing cache of this library version and GPU, empty when there is none."""
        try:
            return self._timing_path(key).read_bytes()
        except OSError:
            return b""

    def store_timings(self, key: EngineKey, timings: bytes) -> None:
        """Raises: EngineError when the folder cannot be written."""
        write_whole(self._timing_path(key), timings)

    def entries(self) -> list[EngineFile]:
        """All engines of the folder, the damaged ones too.

        Raises: UsageError when there is no such folder.
        """
        stems = sorted({match["stem"] for path in self._files() if (match := _OURS.fullmatch(path.name)) and match["stem"]})
        return [read_entry(self.folder / f"{stem}.engine") for stem in stems]

    def fitting(self, fits: Callable[[EngineRecord], bool]) -> Iterator[EngineFile]:
        """The engines whose record `fits`, the newest first; only these are read, one by one."""
        stems = {path.stem for path in self.folder.glob("*.json") if _OURS.fullmatch(path.name)}
        records = {stem: _read_record(self.folder / f"{stem}.json") for stem in stems}
        found = {stem: record for stem, record in records.items() if isinstance(record, EngineRecord) and fits(record)}
        for stem in sorted(found, key=lambda stem: (found[stem].built, stem), reverse=True):
            yield read_entry(self.folder / f"{stem}.engine")

    def prune(self, problem_of: Callable[[EngineFile], str]) -> list[tuple[EngineFile, str]]:
        """Delete the engines of which `problem_of` says something, and what killed builds left; says what it deleted.

        Raises: UsageError when there is no such folder.
        """
        self._files()
        with self.locked():
            found = [(entry, problem_of(entry)) for entry in self.entries()]
            removed = [(entry, problem) for entry, problem in found if problem]
            for entry, _ in removed:
                entry.path.with_suffix(".json").unlink(missing_ok=True)
                for path in (entry.path, *self.folder.glob(f"{entry.path.stem}-*.kernels")):
                    path.unlink(missing_ok=True)
        return removed

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process builds into this folder, and clean up what killed builds left there.

        The lock is on the folder itself and ends with its process. Where there are no such locks (Windows, some network
        folders), two builds both compile, and the later one stays.

        Raises: EngineError when the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise EngineError(f"{self.folder}: cannot be made ({exc.strerror}); choose another folder") from exc
        with _folder_lock(self.folder) as held:
            if held:
                self._clean()
            yield

    def _clean(self) -> None:
        for path in self._files():
            match = _PART.fullmatch(path.name)
            if match and _OURS.fullmatch(match["name"]) and int(match["pid"]) != os.getpid():
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.is_file())
        except OSError as exc:
            raise UsageError(f"{self.folder}: no folder of engines ({exc.strerror}); `sr-deploy build` makes one") from exc

    def _timing_path(self, key: EngineKey) -> Path:
        digest = hashlib.sha256(f"{key.library} {key.version} {key.gpu}".encode()).hexdigest()[:8]
        return self.folder / f"timing-{digest}.cache"


def write_whole(path: Path, contents: bytes) -> None:
    """Write a file that appears under its name when it is complete.

    Raises: EngineError when it cannot be written.
    """
    try:
        files.write_whole(path, path.with_name(f"{path.name}.part-{os.getpid()}"), contents)
    except OSError as exc:
        raise EngineError(f"{path}: cannot be written ({exc.strerror}); choose another folder") from exc


def kernels_path(engine: Path, gpu: str) -> Path:
    """Where the kernels lie that one GPU compiled for an engine."""
    return engine.with_name(f"{engine.stem}-{hashlib.sha256(gpu.encode()).hexdigest()[:8]}.kernels")


def default_folder() -> Path:
    """Where engines lie that were built because they were needed; one per user."""
    return files.cache_folder() / "engines"


def read_entry(path: Path) -> EngineFile:
    """An engine with its record; `problem` says what is damaged."""
    record = _read_record(path.with_suffix(".json"))
    if isinstance(record, str):
        return EngineFile(path, None, record)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        return EngineFile(path, record, f"not readable ({exc.strerror})")
    return EngineFile(path, record, "" if digest == record.sha256 else "changed since it was built")


def _read_record(sidecar: Path) -> EngineRecord | str:
    """The record, or why there is none."""
    try:
        table: Any = json.loads(sidecar.read_text(encoding="utf-8"))
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            return f"{sidecar.name} is of another format"
        return from_table(table, EngineRecord, where=sidecar.name)
    except FileNotFoundError:
        return f"{sidecar.name} is missing"
    except (OSError, ValueError, UsageError) as exc:
        return f"{sidecar.name} is not readable ({exc})"


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[bool]:
    """Whether the lock is held."""
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
