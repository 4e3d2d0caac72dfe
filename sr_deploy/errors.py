"""Every error that sr-deploy raises on purpose.

    SrDeployError                         exit code
    ├── UsageError                        2   an argument or a setting is wrong
    ├── MissingDependencyError            3   something is missing on this machine
    │   └── BackendUnavailableError           an inference runtime or a device
    ├── CheckpointError                   1   a file does not hold usable weights
    │   ├── UnknownArchitectureError          readable, but none of the known networks
    │   └── AmbiguousCheckpointError          weights fit several functions equally well
    ├── FetchError                        1   a published file cannot be had
    ├── BundleError                       1   a bundle is missing, incomplete or was changed
    ├── ExportError                       1   a network cannot become a graph
    │   └── CertificationError                a graph does not compute what its checkpoint computes
    ├── EngineError                       1   an inference runtime failed
    │   ├── FeedError                         wrong name, shape or dtype handed to an engine
    │   └── OutOfMemoryError                  the runtime could not allocate
    ├── UnhealthyOutputError              1   NaN, Inf or collapsed pixels, also in fp32
    ├── ImageError                        1   an image file cannot be read, held or written
    ├── VideoError                        1   a video cannot be read, held or written
    └── CancelledError                  130   the caller asked to stop; the same call goes on

A message says what was wrong, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Iterable


class SrDeployError(Exception):
    """Root of all errors that sr-deploy raises on purpose; `exit_code` is what the CLI returns for it."""

    exit_code = 1


class UsageError(SrDeployError):
    """An argument, an option or a setting is wrong."""

    exit_code = 2


class MissingDependencyError(SrDeployError):
    """Something that this call needs is not installed or not usable on this machine."""

    exit_code = 3


class BackendUnavailableError(MissingDependencyError):
    """An inference runtime or its device cannot be used here."""


class CheckpointError(SrDeployError):
    """A file does not hold usable weights."""


class UnknownArchitectureError(CheckpointError):
    """A state dict belongs to none of the known networks."""


class AmbiguousCheckpointError(CheckpointError):
    """A state dict fits several functions, and the measurement does not tell which."""


class FetchError(SrDeployError):
    """A published file cannot be had from where it is, or is not the one that its recipe names."""


class BundleError(SrDeployError):
    """A bundle is missing, incomplete, or was changed after its export."""


class ExportError(SrDeployError):
    """A network cannot be turned into a graph."""


class CertificationError(ExportError):
    """A graph does not compute what its checkpoint computes."""


class EngineError(SrDeployError):
    """An inference runtime failed."""


class FeedError(EngineError):
    """A feed has the wrong name, shape or dtype."""


class OutOfMemoryError(EngineError):
    """An inference runtime could not allocate what it needs."""


class UnhealthyOutputError(SrDeployError):
    """A network gave NaN, Inf or collapsed pixels, in fp32 too."""


class ImageError(SrDeployError):
    """An image file cannot be read, represented or written."""


class VideoError(SrDeployError):
    """A video file cannot be read, represented or written."""


class CancelledError(SrDeployError):
    """The caller asked to stop; what is finished is kept, and the same call goes on."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a wrong word: `; did you mean 'fast'?`, or '' where no known word is like it."""
    by_case = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_case, n=1)
    return f"; did you mean '{by_case[near[0]]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """What a foreign error says first; the name of its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@functools.cache
def warn_once(log: logging.Logger, message: str) -> None:
    """Log a warning that this process has not given yet: of what costs speed alone, and would come with every frame."""
    log.warning("%s", message)
