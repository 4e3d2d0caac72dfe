"""Checkpoints as bundles in the user's cache, each exported once.

CACHE/bundles/VERSION/
  3c9be7b9d7a4.../lock    of the process that exports a file of this sha256
  3c9be7b9d7a4.../NAME/   its bundle, under the name of the file
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sr_deploy import __version__
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.errors import AmbiguousCheckpointError, BundleError, CheckpointError, ExportError
from sr_deploy.files import alone, cache_folder


def export_once(checkpoint: Path, say: Callable[[str], None], progress: Callable[[str], None] | None = None) -> Path:
    """The bundle of a checkpoint, from the cache if this version exported a file of its content and name before.

    say: called with what is done for later runs, too. progress: called with a line about each step.

    Raises: CheckpointError, ExportError; ModuleNotFoundError where it has to be exported and torch is missing.
    """
    try:
        place = cache_folder() / "bundles" / __version__ / sha256_of(checkpoint)
        folder = place / checkpoint.stem
        with alone(place / "lock", lambda: say(f"note: {checkpoint.name}: another process exports it; waiting for it")):
            if not _is_whole(folder):
                _export(checkpoint, folder, say, progress)
    except OSError as exc:
        raise CheckpointError(
            f"{checkpoint}: cannot be read, or not exported into the cache ({exc.filename}: {exc.strerror}); check the file, "
            "or point XDG_CACHE_HOME to another folder"
        ) from exc
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.open(folder)
    except BundleError:
        return False
    return True


def _export(checkpoint: Path, folder: Path, say: Callable[[str], None], progress: Callable[[str], None] | None) -> None:
    from sr_deploy.export import export_bundle

    say(f"note: {checkpoint.name} is exported first, once; later runs take it from {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        export_bundle(checkpoint, folder, progress=progress)
    except (AmbiguousCheckpointError, ExportError) as exc:
        if "--" not in str(exc):
            raise
        raise type(exc)(f"{exc}; `sr-deploy export {checkpoint}` takes these options, and -m its bundle") from exc
