"""Jobs on the disk, which is all that services of one spool share: what was asked, how far it is, what became of it.

SPOOL/ID/
  order.json      what was asked; a folder without it is an upload that is under way, or died
  inputs/         the files, by numbers
  results/        the results, under the same numbers; of an unfinished video the folder of its segments
  lock            held by who uploads or does the job; the system releases it with the process
  attempts.json   how often the job was begun, and how far it had come then
  progress.json   how far it is
  canceled        somebody wants no more of it
  outcome.json    what became of it
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sr_deploy.errors import UsageError
from sr_deploy.files import alone, growing, sweep
from sr_deploy.serve.answers import RefusedError
from sr_deploy.settings import from_table, to_table

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{32}")
_MOST_JOBS = 1000
_MOST_ATTEMPTS = 3
_UPLOAD_BEGINS = 60.0
"""Seconds after which an upload has its lock, or its process died."""

Ended = Literal["done", "failed", "canceled"]
State = Literal["queued", "running", "done", "failed", "canceled"]


@dataclass(frozen=True)
class OrderedFile:
    """A file of a job. file: its name in the spool; name: what the client calls it."""

    file: str
    name: str
    video: bool


@dataclass(frozen=True)
class Order:
    """What was asked. network: its name; restorer: that of the one for pictures that lost much, empty for none; scale, to: the
    size, as `target_size` takes it; format: a suffix."""

    name: str
    network: str
    files: tuple[OrderedFile, ...]
    created: float
    scale: float | None = None
    to: str | None = None
    format: str | None = None
    quality: int | None = None
    fp32: bool = False
    restorer: str = ""


@dataclass(frozen=True)
class JobProgress:
    """How far a job is. resumed: what of `done` an earlier run did; seconds: of this run. total: None while it is not known."""

    done: int = 0
    total: int | None = None
    resumed: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float | None:
        """Of this run; None at its beginning."""
        made = self.done - self.resumed
        return made / self.seconds if made > 0 and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At this speed; None where it is not known."""
        speed = self.per_second
        return None if speed is None or self.total is None else max(0, self.total - self.done) / speed


@dataclass(frozen=True)
class JobResult:
    """A finished file. file: its name in the spool; name: what a client should call it."""

    file: str
    name: str
    bytes: int


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job."""

    state: Ended
    ended: float
    error: str = ""
    results: tuple[JobResult, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Attempts:
    count: int = 0
    done: int = 0


_ORDER, _PROGRESS, _OUTCOME, _ATTEMPTS = "order.json", "progress.json", "outcome.json", "attempts.json"
_FILES = {Order: _ORDER, JobProgress: _PROGRESS, JobOutcome: _OUTCOME, _Attempts: _ATTEMPTS}


class _TakenError(Exception):
    """Another process or thread has the job."""


def _taken() -> None:
    raise _TakenError


@dataclass(frozen=True)
class JobFolder:
    """One job; any process may look at it, and who holds its lock may change it."""

    folder: Path

    @property
    def id(self) -> str:
        """What clients name it by."""
        return self.folder.name

    @property
    def inputs(self) -> Path:
        """Where its files are."""
        return self.folder / "inputs"

    @property
    def results(self) -> Path:
        """Where its results are."""
        return self.folder / "results"

    @property
    def order(self) -> Order | None:
        """What was asked; None where it is not there, or not whole."""
        return _read(self.folder / _ORDER, Order)

    @property
    def progress(self) -> JobProgress:
        """How far it is."""
        return _read(self.folder / _PROGRESS, JobProgress) or JobProgress()

    @property
    def outcome(self) -> JobOutcome | None:
        """What became of it; None where it goes on."""
        return _read(self.folder / _OUTCOME, JobOutcome)

    @property
    def is_canceled(self) -> bool:
        """Whether somebody wants no more of it."""
        return (self.folder / "canceled").exists()

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Whether it is the caller's alone, for the block."""
        try:
            with alone(self.folder / "lock", waiting=_taken):
                yield True
        except _TakenError:
            yield False

    @property
    def state(self) -> State:
        """Where it is, whoever is at it."""
        if (outcome := self.outcome) is not None:
            return outcome.state
        if self.is_canceled:
            return "canceled"
        with self.claim() as ours:
            return "queued" if ours else "running"

    def keep(self, what: Order | JobProgress | JobOutcome | _Attempts) -> None:
        """Write it down. Raises: OSError."""
        with growing(self.folder / _FILES[type(what)]) as file:
            file.write(json.dumps(to_table(what)).encode())

    def begin(self) -> bool:
        """Whether the job may be begun once more: not where it ended its process again and again, and came no further."""
        sweep(self.folder)
        before, done = _read(self.folder / _ATTEMPTS, _Attempts) or _Attempts(), self.progress.done
        now = _Attempts(before.count + 1 if done <= before.done else 1, done)
        self.keep(now)
        return now.count <= _MOST_ATTEMPTS

    def put_back(self) -> None:
        """This attempt does not count: the service ends."""
        (self.folder / _ATTEMPTS).unlink(missing_ok=True)

    def cancel(self) -> None:
        """Tell whoever is at it to end; where nobody is, it ends now. Raises: OSError."""
        (self.folder / "canceled").touch()
        with self.claim() as ours:
            if ours and self.outcome is None:
                self.end(JobOutcome("canceled", time.time()))

    def end(self, outcome: JobOutcome) -> None:
        """Write down what became of it; what is not a result goes. Raises: OSError."""
        self.keep(outcome)
        shutil.rmtree(self.inputs, ignore_errors=True)
        if outcome.state == "canceled":
            shutil.rmtree(self.results, ignore_errors=True)

    def remove(self) -> None:
        """Delete all of it."""
        with suppress(OSError):
            (self.folder / _ORDER).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Spool:
    """The folder of all jobs.

    most_bytes: of all of them. expiry: seconds that a finished one is kept.

    Raises: UsageError where the folder cannot be used.
    """

    def __init__(self, folder: Path, most_bytes: int, expiry: float) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._expiry = expiry
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with growing(folder / "probe"):
                pass
            (folder / "probe").unlink(missing_ok=True)
        except OSError as exc:
            raise UsageError(f"{folder}: cannot be the spool ({exc.strerror or exc}); choose another folder") from exc

    def new(self, size: int = 0) -> JobFolder:
        """A folder for a job of so many bytes that is about to come. Raises: RefusedError where there is no room; OSError."""
        if sum(1 for _ in self._folder.iterdir()) >= _MOST_JOBS:
            raise RefusedError(503, f"there are {_MOST_JOBS} jobs, which is the most; delete some, or try later", after=60)
        self.require(size)
        job = JobFolder(self._folder / secrets.token_hex(16))
        job.inputs.mkdir(parents=True)
        return job

    def require(self, more: int) -> None:
        """Raises: RefusedError where there is no room for so many bytes more."""
        if self.used() + more > self._most_bytes:
            raise RefusedError(507, f"all jobs together may have {self._most_bytes} bytes; delete some, or try later", after=60)

    def find(self, name: str) -> JobFolder | None:
        """The job of that id, or None."""
        job = JobFolder(self._folder / name) if _ID.fullmatch(name) else None
        return job if job is not None and job.order is not None else None

    def jobs(self, *, unfinished: bool = False) -> list[tuple[JobFolder, Order]]:
        """All of them, or those without an outcome, the oldest first."""
        folders = [JobFolder(path) for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
        if unfinished:
            folders = [job for job in folders if not (job.folder / _OUTCOME).exists()]
        found = [(job, order) for job in folders if (order := job.order) is not None]
        return sorted(found, key=lambda entry: (entry[1].created, entry[0].id))

    def used(self) -> int:
        """Bytes of all jobs."""
        return sum(_size(Path(folder) / name) for folder, _, names in os.walk(self._folder) for name in names)

    def tidy(self) -> None:
        """Remove what is finished long since, and uploads whose process died."""
        for path in self._folder.iterdir():
            if _ID.fullmatch(path.name):
                with suppress(OSError):  # Another process may have removed it.
                    self._tidy(JobFolder(path))

    def _tidy(self, job: JobFolder) -> None:
        outcome = job.outcome
        if outcome is not None and time.time() - outcome.ended > self._expiry:
            job.remove()
        elif job.order is None and time.time() - job.folder.stat().st_mtime > _UPLOAD_BEGINS:
            with job.claim() as ours:
                if ours and job.order is None:
                    job.remove()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, kind: type[T]) -> T | None:
    """What was kept; None where nothing is there that can be trusted."""
    try:
        table: Any = json.loads(path.read_bytes())
        return from_table(table, kind, where=path.name) if isinstance(table, dict) else None
    except (OSError, ValueError, UsageError):
        return None
