"""Recipes: what the weights of a published checkpoint cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.bundle import sha256_of
from sr_deploy.errors import CheckpointError
from sr_deploy.settings import find_toml, load_toml


@dataclass(frozen=True)
class Recipe:
    """One published checkpoint.

    `checkpoint`: its file name. `variant`: settings that the weights leave open, such as inner_skips. `expected`: published
    PSNR of Y in dB by test set. `url`: where the file is published.
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


def read_recipe(recipe: str | Path) -> Recipe:
    """Read a recipe: a TOML file, or the name of one that comes with sr-deploy, such as `rlfn_x4`.

    Raises: UsageError for a missing file, an unknown name or key, a wrong type.
    """
    return load_toml(find_toml(recipe, "export"), Recipe)


def check_recipe(recipe: Recipe, checkpoint: Path) -> None:
    """Raises: CheckpointError when the file is not the one that the recipe was written for."""
    try:
        found = sha256_of(checkpoint)
    except OSError as exc:
        raise CheckpointError(f"{checkpoint}: cannot be read ({exc.strerror}); get it from {recipe.url}") from exc
    if found != recipe.sha256:
        raise CheckpointError(
            f"{checkpoint}: not the file of recipe '{recipe.name}': sha256 {found[:12]}, expected {recipe.sha256[:12]} "
            f"({recipe.checkpoint} from {recipe.url}). Get that file, or export without --recipe"
        )
