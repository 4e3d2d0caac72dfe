"""Nothing half-written: a folder appears under its name when it is complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

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
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    except OSError as exc:
        raise UsageError(f"{target.parent}: cannot be written ({exc.strerror}); choose another output") from exc
    try:
        yield part
        _put_in_place(part, target)
    except BaseException as exc:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(exc, OSError):
            raise ExportError(
                f"{target}: cannot be written ({exc.strerror}); free some space or choose another output"
            ) from exc
        raise


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raises: UsageError when `target` exists and may not be replaced."""
    if not target.exists():
        return
    if not overwrite:
        raise UsageError(f"{target}: already exists; choose another output, or replace it with --overwrite")
    if not (target / CARD_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: not a bundle (no {CARD_FILE}), so it is not replaced; choose another output")


def _put_in_place(part: Path, target: Path) -> None:
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    had_one = target.exists()
    if had_one:
        target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        if had_one:
            old.rename(target)
        raise
    if had_one:
        shutil.rmtree(old)
