"""Files that are there whole or not at all."""

from __future__ import annotations

import os
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
