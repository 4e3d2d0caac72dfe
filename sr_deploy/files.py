"""Files that are there whole or not at all, through power cuts too."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def write_whole(path: Path, part: Path, contents: bytes) -> None:
    """Write a file that appears under its name when it is complete and on the disk; `part`, beside it, is what it grows as.

    Raises: OSError, with `path` as it was.
    """
    try:
        with part.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def put_in_place(part: Path, path: Path) -> None:
    """Rename a file that is complete, so that neither its bytes nor its name are lost in a power cut."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # folders have no handle there
    handle = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
