"""Networks by name: those in the box, and published ones that were fetched.

The box are bundles that come with the package, a folder NAME-xSCALE for each, beside this file:

fast-x4/
  card.json ...   as in every bundle; the card's source has the license and the measured PSNR
  recipe.toml     what `sr-deploy train` made the weights from, its seed too
  log.csv         how the training went

Fetched ones are in the user's data folder, called like their recipes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.bundle import CARD_FILE
from sr_deploy.errors import UsageError, did_you_mean
from sr_deploy.files import data_folder
from sr_deploy.settings import shipped

DEFAULT = "fast"
"""The network that runs when none is named."""

RESTORER = "photo-fast"
"""The one that runs in its place for pictures that lost much to their compression."""

FOLDER = Path(__file__).parent
RECIPE_FILE = "recipe.toml"
USUAL_SCALE = 4
_CHECKPOINTS = (".pth", ".pt", ".pkl", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Model:
    """One network in the box."""

    name: str
    scale: int
    folder: Path

    @property
    def recipe(self) -> Path | None:
        """What it can be trained again with, where that is known."""
        path = self.folder / RECIPE_FILE
        return path if path.is_file() else None


def available() -> tuple[Model, ...]:
    """The networks in the box, by name and scale."""
    folders = (path.parent for path in FOLDER.glob(f"*/{CARD_FILE}"))
    parsed = ((re.fullmatch(r"(.+)-x(\d+)", folder.name), folder) for folder in folders)
    models = (Model(match[1], int(match[2]), folder) for match, folder in parsed if match)
    return tuple(sorted(models, key=lambda model: (model.name, model.scale)))


def find(name: str, scale: float | None = None) -> Path:
    """The bundle in the box that `name` means: `fast-x2` itself, `fast` the one that makes images `scale` times as large.

    A name also stands for what begins with it: `quality` for `quality-small`, until there is a `quality` itself. Between two
    scales it is the larger one, whose result is resampled; beyond all, the largest. Without `scale`, it is x4.

    Raises: UsageError when there is none of that name.
    """
    family = _family(name)
    if not family:
        raise UsageError(f"{name}: no network of that name in the box; {_contents(available())}{hint(name)}")
    wanted = USUAL_SCALE if scale is None else scale
    return next((model for model in family if model.scale >= wanted), family[-1]).folder


def resolve(model: str | Path, scale: float | None = None) -> Path:
    """The path that `model` names: a file or a bundle on disk before a network in the box, see `find`, or a fetched one.

    Other folders do not hide these, so that results may go to a folder called `fast`. Anything with a slash or a suffix is
    a path, whether it exists or not.

    Raises: UsageError for a bare name that is neither; of a published network it says how to fetch it.
    """
    path, name = Path(model), str(model)
    if not path.is_file() and not (path / CARD_FILE).exists():
        if is_in_the_box(name):
            return find(name, scale)
        if name in fetched():
            return fetched_folder(name)
    if path.exists() or path.name != name or path.suffix:
        return path
    if name in shipped("export"):
        raise UsageError(f"{name}: is published, and not fetched yet; `sr-deploy fetch {name}` gets it, or says where it is")
    raise UsageError(
        f"{name}: not a bundle, no such folder, and no network of that name in the box; {_contents(available())}{hint(name)}"
    )


def portable_name(model: str | Path) -> str:
    """What `resolve` finds the same network by on another machine, or from another folder: a name in the box, or a whole path.

    Raises: UsageError as `resolve`.
    """
    path = resolve(model)
    if path.parent != FOLDER:
        return str(path.absolute())
    return path.name if isinstance(model, Path) else model


def is_in_the_box(name: str) -> bool:
    """Whether `find` knows the name."""
    return bool(_family(name))


def is_checkpoint(model: str | Path) -> bool:
    """Whether there is a file that has a name as of weights: no network yet, but what one is exported from."""
    return Path(model).suffix.lower() in _CHECKPOINTS and Path(model).is_file()


def hint(name: str) -> str:
    """The end of a message about a wrong name: `; did you mean 'fast'?`, or '' where nothing is called like it."""
    return did_you_mean(name, (*names(), *fetched(), *shipped("export")))


def names() -> tuple[str, ...]:
    """All names of the networks in the box, those with and those without their scale, sorted."""
    return tuple(sorted({word for model in available() for word in (model.name, model.folder.name)}))


def fetched() -> tuple[str, ...]:
    """The names of fetched networks, sorted."""
    folders = (path.parent for path in fetched_folder("").glob(f"*/{CARD_FILE}"))
    return tuple(sorted(folder.name for folder in folders if ".part-" not in folder.name))


def fetched_folder(name: str) -> Path:
    """Where the bundle of a fetched network stands, or would stand."""
    return data_folder() / "models" / name


def aliases() -> dict[str, tuple[str, ...]]:
    """Names without a scale, and those of the networks that each may mean: `find` takes the one for the factor."""
    short = sorted({word for model in available() for word in (model.name, model.name.partition("-")[0])})
    return {name: tuple(model.folder.name for model in _family(name)) for name in short}


def _family(name: str) -> list[Model]:
    """The networks that a name may mean, by scale."""
    models = available()
    ways: tuple[Callable[[Model], bool], ...] = (
        lambda model: model.folder.name == name,
        lambda model: model.name == name,
        lambda model: model.name.startswith(f"{name}-"),
    )
    return next((found for way in ways if (found := [model for model in models if way(model)])), [])


def _contents(models: tuple[Model, ...]) -> str:
    if not models:
        return "this installation has none: name a bundle, or make one with `sr-deploy export CHECKPOINT`"
    return f"there are {', '.join(model.folder.name for model in models)}; `sr-deploy export CHECKPOINT` makes others"
