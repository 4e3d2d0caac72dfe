"""Nothing half-written: a folder appears under its name when it is complete, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sr_deploy import files
from sr_deploy.bundle import CARD_FILE
from sr_deploy.errors import ExportError, UsageError


@contextlib.contextmanager
def staged(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block ends, and is removed when the block raises.

    With `overwrite`, an earlier bundle at `target` is removed after the new one stands.

    Raises: UsageError when `target` exists and may not be replaced, or its parent cannot be written; ExportError when writing
    fails in between, as on a full disk.
    """
    check_target(target, overwrite=overwrite)
    begun = False
    try:
        with files.staged_folder(target) as part:
            begun = True
            yield part
    except OSError as exc:
        if not begun:
            raise UsageError(f"{target.parent}: cannot be written ({exc.strerror}); choose another output") from exc
        raise ExportError(f"{target}: cannot be written ({exc.strerror}); free some space or choose another output") from exc


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raises: UsageError when `target` exists and may not be replaced."""
    if not target.exists():
        return
    if not overwrite:
        raise UsageError(f"{target}: already exists; choose another output, or replace it with --overwrite")
    if not (target / CARD_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not a bundle (no {CARD_FILE}), so it is not replaced; choose another output")
