"""`sr-deploy`: a command is a file of this package; its body parses, calls the library once, and prints."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from sr_deploy import __version__
from sr_deploy.cli.group import Group

__all__ = ["main", "program"]

COMMANDS = (
    *("train", "export", "inspect", "build", "engines", "upscale", "models", "evaluate"),
    *("verify", "bench", "tune", "doctor", "architectures"),
)


@click.group(cls=Group, modules=COMMANDS, context_settings={"help_option_names": ["--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sr-deploy", message="%(prog)s %(version)s")
def program() -> None:
    """Take a trained super-resolution checkpoint to pixels.

    Exit codes: 0 all good; 1 some input failed, the rest is done; 2 wrong usage; 3 something is missing on this machine;
    130 interrupted, and the same command goes on.
    """


def main() -> None:
    """Run the program with the arguments of this process, and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    program(prog_name="sr-deploy")


def _terminate(number: int, frame: FrameType | None) -> None:
    """A polite kill unwinds like Ctrl-C, so nothing half-written stays."""
    del frame
    sys.exit(128 + number)
