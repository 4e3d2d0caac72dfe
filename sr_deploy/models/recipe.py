"""Recipes: what the weights of a published checkpoint cannot tell, and where its file is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.bundle import sha256_of
from sr_deploy.errors import CheckpointError
from sr_deploy.settings import find_toml, load_toml, shipped

FREE_LICENSES = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT"})
"""Those that allow every use. Any other one has to be agreed to."""


@dataclass(frozen=True)
class Download:
    """A public file of a known size.

    `url`: over https. `hosts`: those that the address may lead on to, beside its own.
    """

    url: str
    bytes: int
    sha256: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One published checkpoint.

    `checkpoint`: its file name. `variant`: settings that the weights leave open, such as inner_skips. `expected`: published
    PSNR of Y in dB by test set. `url`: the page where it is published. `download`: the address of the file itself, which has
    so many `bytes`, and may lead on to these `hosts`; empty where it has none of its own. `bundle`: made of it, as a zip file.
    `purpose` and `credits`: as in the `Source` of a card.
    """

    name: str
    architecture: str
    checkpoint: str
    sha256: str
    value_range: float
    license: str
    url: str
    variant: dict[str, bool | int | float | str] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    download: str = ""
    bytes: int = 0
    hosts: tuple[str, ...] = ()
    bundle: Download | None = None
    purpose: str = ""
    credits: tuple[str, ...] = ()

    @property
    def file(self) -> Download | None:
        """The checkpoint as a public file, where it is one."""
        return Download(self.download, self.bytes, self.sha256, self.hosts) if self.download else None

    @property
    def asks(self) -> bool:
        """Whether the license has to be agreed to."""
        return self.license not in FREE_LICENSES


def read_recipe(recipe: str | Path) -> Recipe:
    """Read a recipe: a TOML file, or the name of one that comes with sr-deploy, such as `rlfn_x4`.

    Raises: UsageError for a missing file, an unknown name or key, a wrong type.
    """
    return load_toml(find_toml(recipe, "export"), Recipe)


def recipes() -> tuple[Recipe, ...]:
    """Those that come with sr-deploy, by name."""
    return tuple(load_toml(path, Recipe) for path in shipped("export").values())


def recipe_of(checkpoint: Path) -> Recipe | None:
    """The recipe of a published checkpoint, which is known by its sha256; None for any other file.

    Raises: CheckpointError when the file cannot be read.
    """
    digest = _digest(checkpoint, "check the path")
    return next((recipe for recipe in recipes() if recipe.sha256 == digest), None)


def check_recipe(recipe: Recipe, checkpoint: Path) -> None:
    """Raises: CheckpointError when the file cannot be read, or is not the one that the recipe was written for."""
    digest = _digest(checkpoint, f"recipe '{recipe.name}' is of {recipe.checkpoint} from {recipe.url}")
    if digest != recipe.sha256:
        raise CheckpointError(
            f"{checkpoint}: not the file of recipe '{recipe.name}': sha256 {digest[:12]}, expected {recipe.sha256[:12]} "
            f"({recipe.checkpoint} from {recipe.url}). Get that file, or export without --recipe"
        )


def _digest(checkpoint: Path, hint: str) -> str:
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such file; {hint}")
    try:
        return sha256_of(checkpoint)
    except OSError as exc:
        raise CheckpointError(f"{checkpoint}: cannot be read ({exc.strerror}); {hint}") from exc
