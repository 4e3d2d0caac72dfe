"""What is to be done of a run, and why something could not be."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from sr_deploy.errors import ImageError, MissingDependencyError, SrDeployError
from sr_deploy.files import Address

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """One picture or video to upscale; of a video, a `part` in seconds. `note` tells why its target has an unexpected name.

    restore: by the network that restores.
    """

    source: Path | Address
    target: Path
    note: str = ""
    video: bool = False
    part: tuple[Fraction, Fraction] | None = None
    restore: bool = False

    @property
    def location(self) -> str | Path:
        """The source as library calls take it."""
        return self.source.url if isinstance(self.source, Address) else self.source


@dataclass(frozen=True)
class Failure:
    """A file that could not be done, and why. `details` is the traceback of an error that nobody expected."""

    path: Path | Address
    message: str
    details: str = ""

    def __str__(self) -> str:
        return self.message if self.message.startswith(str(self.path)) else f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Plan:
    """What is to be done, what cannot be, and what the user should know."""

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...] = ()
    notes: tuple[tuple[Path | Address, str], ...] = ()

    def shard(self, number: int, count: int) -> Plan:
        """Every `count`th job from `number` on; the first shard tells what cannot be done."""
        first = number == 0
        return Plan(self.jobs[number::count], self.failures if first else (), self.notes if first else ())


def failure_of(job: Job, error: Exception) -> Failure:
    """Why a job could not be done, in words; raises when the next ones would fail the same way."""
    if _is_no_space(error):
        raise ImageError(
            f"{job.target}: the disk is full, so nothing more was done; finished files are kept: "
            "free some space and run the same command again"
        ) from error
    if isinstance(error, MissingDependencyError | BrokenPipeError):
        raise error
    if isinstance(error, SrDeployError):
        failure = Failure(job.source, str(error))
    elif isinstance(error, OSError):
        failure = Failure(job.source, f"{error.strerror or error} ({error.filename or job.target})")
    elif isinstance(error, MemoryError):
        failure = Failure(job.source, "does not fit into memory; lower --memory or give a --tile")
    else:
        details = "".join(traceback.format_exception(error))
        failure = Failure(job.source, f"internal error, {type(error).__name__}: {error}", details)
    told = getattr(error, "__notes__", ())
    known = [next((note for note in told if words in note), "") for words in ("frame ", "frames are kept")]
    return replace(failure, message=f"{failure.message} ({'; '.join(filter(None, known))})") if any(known) else failure


def _is_no_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        error = error.__cause__ or error.__context__
    return False
