"""`sr-deploy`: a command is a file of this package; its body parses, calls the library once, and prints."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

import click

from sr_deploy import __version__
from sr_deploy.cli.group import Group

__all__ = ["main", "program"]

COMMANDS = (
    *("upscale", "models", "doctor", "export", "inspect", "verify", "evaluate"),
    *("bench", "tune", "build", "engines", "train", "architectures"),
)


@click.group(cls=Group, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sr-deploy", message="%(prog)s %(version)s")
def program() -> None:
    """Take a trained super-resolution checkpoint to pixels.

    Exit codes: 0 all good; 1 some input failed, the rest is done; 2 wrong usage; 3 something is missing on this machine;
    130 interrupted, and the same command goes on.
    """


def main() -> None:
    """Run the program with the arguments of this process, and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    _keep_stderr()
    _keep_names()
    program(prog_name="sr-deploy")


def _keep_stderr() -> None:
    """Give Python's stderr a descriptor of its own: while images are decoded, descriptor 2 is listened to.

    Where the caller has closed it, what would be told goes nowhere, and no file that is opened later becomes descriptor 2.
    """
    while (unused := os.open(os.devnull, os.O_WRONLY)) <= 2:
        pass
    os.close(unused)
    encoding, errors = (getattr(sys.stderr, name, None) for name in ("encoding", "errors"))
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors)


def _keep_names() -> None:
    """Print paths byte for byte, also those that are not in the encoding of stdout."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _terminate(number: int, frame: FrameType | None) -> None:
    """A polite kill unwinds like Ctrl-C, so nothing half-written stays."""
    del frame
    sys.exit(128 + number)
