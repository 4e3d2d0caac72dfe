"""Recipes of training: one TOML file says everything that the weights depend on."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sr_deploy.architectures import Architecture, Config, architecture_named
from sr_deploy.errors import UsageError
from sr_deploy.models import fetched, names
from sr_deploy.settings import find_toml, from_table, load_toml
from sr_deploy.training.degradation.settings import Degradation, check_degradation
from sr_deploy.training.generated import GeneratedContent

LearningRateSchedule = Literal["constant", "halving", "cosine"]
TrainedPart = Literal["whole", "decomposed", "patches", "mask"]


@dataclass(frozen=True)
class LossWeights:
    """What each loss counts for; those of 0 are not computed."""

    l1: float = 0.0
    mse: float = 0.0
    fourier: float = 0.0
    contrastive: float = 0.0
    teacher: float = 0.0


@dataclass(frozen=True)
class TrainingStage:
    """One run of the optimizer, from the weights of the stage before it.

    `crop`: side of the HR crops. `schedule`: 'halving' halves the learning rate every `halve_every` steps, 'cosine' ends at
    `final_learning_rate`. `ema`: decay of the averaged weights, which are the ones that are measured and handed on; 0 for none.
    `part`: what a stage of a mask-guided network trains: base and refine network as one plain network ('decomposed'), then the
    refine network on all patches beside the base ('patches'), then the mask alone ('mask'). `coarse`: what the base's own
    image counts in 'patches', beside the refined one.
    """

    steps: int
    batch: int
    crop: int
    learning_rate: float
    losses: LossWeights
    schedule: LearningRateSchedule = "constant"
    halve_every: int = 0
    final_learning_rate: float = 0.0
    ema: float = 0.0
    part: TrainedPart = "whole"
    coarse: float = 1.0


@dataclass(frozen=True)
class TrainingRecipe:
    """How a network is trained.

    `network`: the fields of the architecture's config that differ from its default; blocks are of the training form unless
    `merged` says otherwise. Folders are relative to the recipe's own. `hr`: folders of HR photos. `hold_out`: how many of them
    are kept for validation, when `validation_hr` names no folder. `validation_lr`: a folder with the LR images of
    `validation_hr`, made by bicubic when it is not given. `start`: a checkpoint of the same network, or of another scale.
    `teacher`: a bundle, or a checkpoint of any network of ours, whose images the loss 'teacher' compares with;
    `teacher_license`: that of its weights, where nothing else tells; `teacher_sees`: what it makes its images of, where LR is
    degraded. `degradation`: how LR is made of HR, in place of bicubic. `generated`: what of the crops is of pictures that are
    drawn and not photos.
    `threads`: 0 for as many as torch takes.
    """

    name: str
    architecture: str
    stages: tuple[TrainingStage, ...]
    network: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    hr: tuple[str, ...] = ()
    validation_hr: tuple[str, ...] = ()
    validation_lr: str = ""
    hold_out: int = 8
    start: str = ""
    teacher: str = ""
    teacher_license: str = ""
    teacher_sees: Literal["clean", "degraded"] = "clean"
    degradation: Degradation | None = None
    generated: GeneratedContent | None = None
    validate_every: int = 1000
    save_every: int = 1000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def read_recipe(source: str | Path, **given: Any) -> TrainingRecipe:
    """Read a recipe, with what is `given` in place of what it says; its folders become absolute, those given stay.

    `source`: a TOML file, or the name of one that comes with sr-deploy, such as `fast_x4`.

    Raises: UsageError for a missing file, an unknown name or key, a wrong type, a value that cannot be.
    """
    path = find_toml(source, "training")
    recipe = load_toml(path, TrainingRecipe)
    folder = path.absolute().parent
    recipe = dataclasses.replace(
        recipe,
        hr=tuple(str(folder / name) for name in recipe.hr),
        validation_hr=tuple(str(folder / name) for name in recipe.validation_hr),
        validation_lr=str(folder / recipe.validation_lr) if recipe.validation_lr else "",
        start=str(folder / recipe.start) if recipe.start else "",
        teacher=_teacher_path(folder, recipe.teacher),
    )
    recipe = dataclasses.replace(recipe, **given)
    _check(recipe, str(path))
    return recipe


def _teacher_path(folder: Path, teacher: str) -> str:
    """What stands beside the recipe comes before a network in the box, or a fetched one, of that name."""
    if not teacher or (teacher in (*names(), *fetched()) and not (folder / teacher).exists()):
        return teacher
    return str(folder / teacher)


def portable(recipe: TrainingRecipe) -> TrainingRecipe:
    """The recipe as it can be shared: folders by their names alone, so that they may stand beside it."""
    return dataclasses.replace(
        recipe,
        hr=tuple(Path(folder).name for folder in recipe.hr),
        validation_hr=tuple(Path(folder).name for folder in recipe.validation_hr),
        validation_lr=Path(recipe.validation_lr).name,
        start="/".join(Path(recipe.start).parts[-2:]),
        teacher=Path(recipe.teacher).name,
    )


def as_toml(recipe: TrainingRecipe) -> str:
    """A recipe as `read_recipe` takes it; what is of no effect is left out."""
    table = dataclasses.asdict(recipe)
    network, stages = table.pop("network"), table.pop("stages")
    sections = [_lines(table), "[network]\n" + _lines(network), *("[[stages]]\n" + _lines(stage) for stage in stages)]
    return "\n".join(sections)


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items() if value not in ("", (), None))


def _value(value: Any) -> str:
    """TOML shares strings, numbers and truth values with JSON, but not tables, and has no null."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def architecture_of(recipe: TrainingRecipe) -> Architecture[Any]:
    """The architecture that a recipe names. Raises: UsageError with the nearest one."""
    return architecture_named(recipe.architecture, where=f"recipe '{recipe.name}': ")


def config_of(recipe: TrainingRecipe) -> Config:
    """The config of the network that is trained. Raises: UsageError for a field that the network does not have."""
    default = architecture_of(recipe).default
    table = dataclasses.asdict(default)
    if "merged" in table:
        table["merged"] = False
    config: Config = from_table(table | recipe.network, type(default), where=f"recipe '{recipe.name}': network")
    return config


def _check(recipe: TrainingRecipe, where: str) -> None:
    config, architecture = config_of(recipe), architecture_of(recipe)
    if config.scale < 2 or config.colors not in (1, 3):
        raise UsageError(
            f"{where}: scale {config.scale}, colors {config.colors}; expected a scale from 2 on, and 3 colors or 1"
        )
    if not recipe.stages:
        raise UsageError(f"{where}: no stages; write at least one [[stages]] table")
    if min(recipe.validate_every, recipe.save_every) < 1 or min(recipe.threads, recipe.hold_out, recipe.seed) < 0:
        raise UsageError(
            f"{where}: validate_every and save_every count steps from 1 on; threads, hold_out and seed are not negative"
        )
    _check_content(recipe, config.colors, where)
    for number, stage in enumerate(recipe.stages, 1):
        _check_stage(stage, f"{where}: stage {number}")
        _check_crop(stage.crop, config.scale, architecture, f"{where}: stage {number}")
        if architecture.mask_guided is (stage.part == "whole"):
            expected = "'decomposed', 'patches' or 'mask'" if architecture.mask_guided else "'whole'"
            raise UsageError(f"{where}: stage {number}: part '{stage.part}'; {architecture.name} is trained by {expected}")


def _check_content(recipe: TrainingRecipe, colors: int, where: str) -> None:
    content = recipe.generated
    if content is not None and not (0 <= content.share <= 1 and content.pictures >= 1 and content.kinds):
        raise UsageError(f"{where}: generated: expected a share of 0 to 1, one kind at least, and pictures from 1 on")
    if recipe.degradation is None:
        return
    check_degradation(recipe.degradation, f"{where}: degradation")
    if colors != 3:
        raise UsageError(f"{where}: degradation: of RGB pictures, and the network has {colors} color; set colors = 3")


def _check_stage(stage: TrainingStage, where: str) -> None:
    if min(stage.steps, stage.batch, stage.crop) < 1 or stage.learning_rate <= 0:
        raise UsageError(f"{where}: steps, batch, crop and learning_rate must be above 0")
    if stage.schedule == "halving" and stage.halve_every < 1:
        raise UsageError(f"{where}: schedule 'halving' needs halve_every, in steps")
    if not 0 <= stage.ema < 1:
        raise UsageError(f"{where}: ema {stage.ema} is not in [0, 1); 0.999 averages over about 1000 steps")
    if stage.coarse < 0 or (stage.coarse != 1 and stage.part != "patches"):
        raise UsageError(f"{where}: coarse {stage.coarse:g} is a weight of the part 'patches', and not negative")
    weights = dataclasses.asdict(stage.losses)
    if stage.part == "mask" and stage.losses != LossWeights(l1=stage.losses.l1):
        raise UsageError(f"{where}: a mask learns the error map by L1 alone; set losses = {{ l1 = 1.0 }}")
    if min(weights.values()) < 0 or not any(weights.values()):
        raise UsageError(f"{where}: losses must have a weight above 0 and none below; valid: {', '.join(weights)}")


def _check_crop(crop: int, scale: int, architecture: Architecture[Any], where: str) -> None:
    unit, smallest = scale * architecture.size_multiple, scale * architecture.min_size
    if crop % unit:
        nearest = max(1, round(crop / unit)) * unit
        what = f"the scale {scale}" if unit == scale else f"{unit}, a patch of {architecture.size_multiple} LR pixels"
        raise UsageError(f"{where}: crop {crop} is no multiple of {what}; {nearest} is")
    if crop < smallest:
        raise UsageError(
            f"{where}: crop {crop} is too small, the network takes LR of {architecture.min_size} and more; use {smallest}"
        )
