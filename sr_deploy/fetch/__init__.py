"""Published networks: the file that a recipe names -> the user's data folder, exported there.

DATA/
  checkpoints/NAME/FILE   the checkpoint, as it is published
  checkpoints/NAME/lock   of the process that is at work
  models/NAME/            its bundle
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.bundle import Bundle
from sr_deploy.errors import BundleError, CheckpointError, FetchError, MissingDependencyError, UsageError
from sr_deploy.fetch.https import download
from sr_deploy.files import Address, alone, data_folder
from sr_deploy.models import fetched_folder
from sr_deploy.models.recipe import Download, Recipe, check_recipe, read_recipe

_FOR_EXPORT = ("torch", "safetensors", "onnxscript")

Announce = Callable[[str], None]
ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What is there now. `checkpoint`: None where the bundle came ready. `new`: whether this call made the bundle."""

    recipe: Recipe
    bundle: Path
    checkpoint: Path | None
    new: bool


def fetch(
    name: str | Path, *, agreed: bool = False, say: Announce | None = None, progress: ByteProgress | None = None
) -> Fetched:
    """Make the bundle of a published network in the user's data folder, where `-m NAME` finds it.

    The checkpoint is fetched and exported; without what exports, it is the ready bundle, where the recipe names one. What is
    there is kept, also a checkpoint that somebody put there by hand.

    name: of a recipe that comes with sr-deploy, or the TOML file of another one.
    agreed: to a license that does not allow every use.
    say: called with a line about each step.
    progress: called with how many bytes are there, of how many.

    Raises: UsageError for an unknown name, and for a license that was not agreed to; FetchError; MissingDependencyError where
    nothing here exports; those of `export_bundle`.
    """
    say, recipe = say or (lambda _: None), read_recipe(name)
    for part in (recipe.name, recipe.checkpoint):
        if not re.fullmatch(r"[\w-][\w .+-]*", part):
            raise UsageError(f"{name}: '{part}' is no name for a file")
    checkpoint = data_folder() / "checkpoints" / recipe.name / recipe.checkpoint
    folder = fetched_folder(recipe.name)
    try:
        with alone(checkpoint.with_name("lock"), lambda: say(f"{recipe.name}: another process fetches it; waiting for it")):
            if _is_whole(folder, recipe):
                return Fetched(recipe, folder, checkpoint if checkpoint.is_file() else None, new=False)
            if recipe.asks and not agreed:
                raise UsageError(
                    f"{recipe.name}: its license, '{recipe.license}', does not allow every use; see {recipe.url}, and agree "
                    "with --yes"
                )
            shutil.rmtree(folder, ignore_errors=True)
            if recipe.bundle is not None and not _exports():
                _get(recipe, recipe.bundle, checkpoint.with_name(f"{recipe.name}.zip"), say, progress)
                _unpack(checkpoint.with_name(f"{recipe.name}.zip"), folder, recipe)
                return Fetched(recipe, folder, None, new=True)
            _get_checkpoint(recipe, checkpoint, say, progress)
            _export(checkpoint, folder, name, say)
            return Fetched(recipe, folder, checkpoint, new=True)
    except OSError as exc:
        raise FetchError(
            f"{exc.filename or folder}: cannot be written ({exc.strerror}); point XDG_DATA_HOME to another folder"
        ) from exc


def _is_whole(folder: Path, recipe: Recipe) -> bool:
    """Whether a bundle is there, of this very checkpoint."""
    try:
        source = Bundle.open(folder).card.source
    except BundleError:
        return False
    return source is not None and source.sha256 == recipe.sha256


def _get_checkpoint(recipe: Recipe, checkpoint: Path, say: Announce, progress: ByteProgress | None) -> None:
    try:
        check_recipe(recipe, checkpoint)
    except CheckpointError:
        if recipe.file is None:
            raise FetchError(
                f"{recipe.name}: has no address of its own; get {recipe.checkpoint} from {recipe.url}, put it into "
                f"{checkpoint.parent}, and run this again"
            ) from None
        _get(recipe, recipe.file, checkpoint, say, progress)


def _get(recipe: Recipe, file: Download, target: Path, say: Announce, progress: ByteProgress | None) -> None:
    """Raises: FetchError, with where the file would have come from, and where it belongs."""
    say(f"fetching {Address(file.url)}, {file.bytes / 1e6:.2f} MB, license {recipe.license}")
    try:
        download(file, target, None if progress is None else lambda done: progress(done, file.bytes))
    except FetchError as exc:
        raise FetchError(
            f"{exc}. From elsewhere, put {target.name} ({file.bytes} bytes, sha256 {file.sha256}) into {target.parent}"
        ) from exc


def _exports() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in _FOR_EXPORT)


def _export(checkpoint: Path, folder: Path, name: str | Path, say: Announce) -> None:
    if not _exports():
        raise MissingDependencyError(
            f'{checkpoint}: is there, and export needs torch; install it with `pip install "sr-deploy[export]"`, then run this '
            "again, or export the file on a machine that has it"
        )
    from sr_deploy.export import export_bundle

    export_bundle(checkpoint, folder, recipe=name, progress=say)


def _unpack(archive: Path, folder: Path, recipe: Recipe) -> None:
    """A bundle out of a zip file, which goes. Raises: FetchError when it is none of this recipe."""
    place = archive.with_suffix("")
    shutil.rmtree(place, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(place)
        if not _is_whole(place, recipe):
            raise zipfile.BadZipFile("it holds no bundle of that checkpoint")
        folder.parent.mkdir(parents=True, exist_ok=True)
        place.rename(folder)
    except zipfile.BadZipFile as exc:
        raise FetchError(f"{archive.name}: not the bundle of '{recipe.name}' ({exc}); tell whoever made the recipe") from exc
    finally:
        shutil.rmtree(place, ignore_errors=True)
        archive.unlink()
