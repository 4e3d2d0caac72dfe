"""What a recipe asks for, made ready: network, photos, device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from sr_deploy.architectures import Architecture, Config, Network
from sr_deploy.errors import BackendUnavailableError, UsageError
from sr_deploy.models import resolve
from sr_deploy.training.crops import MARGIN, Crops
from sr_deploy.training.photos import Photo, degraded_photos, fingerprint, generated_photos, hold_out, read_photos
from sr_deploy.training.recipe import TrainingRecipe, architecture_of, config_of
from sr_deploy.training.teacher import Teacher, read_teacher
from sr_deploy.training.validation import ValidationScore, validate_bicubic

WITHOUT_EFFECT = (
    *("name", "hr", "validation_hr", "validation_lr", "start", "teacher", "teacher_license"),
    *("validate_every", "save_every", "device", "threads"),
)
"""What a run may be interrupted and gone on with differently; photos are known by their pixels, a teacher by its bytes."""

CAME_LATER = ("degradation", "generated", "teacher_sees")
"""What counts only where it says something: states of runs that knew nothing of it are gone on from."""


@dataclass(frozen=True)
class TrainingJob:
    """A recipe with everything in memory that its steps need. `bicubic` is its score on the validation photos."""

    recipe: TrainingRecipe
    architecture: Architecture[Any]
    config: Config
    device: torch.device
    photos: list[Photo]
    validation: list[Photo]
    bicubic: ValidationScore
    generated: list[Photo]
    teacher: Teacher | None = None

    @property
    def identity(self) -> str:
        """What the trained weights depend on, in few letters."""
        usual = {field.name: field.default for field in fields(self.recipe) if field.name in CAME_LATER}
        silent = {name for name, value in usual.items() if getattr(self.recipe, name) == value}
        settings = {key: value for key, value in asdict(self.recipe).items() if key not in (*WITHOUT_EFFECT, *silent)}
        settings |= {"config": asdict(self.config), "photos": fingerprint(self.photos)}
        settings |= {"teacher": self.teacher.sha256} if self.teacher else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def crops(self, stage: int) -> Crops:
        """The crops of a stage, counted from 0."""
        return stage_crops(self.recipe, stage, self.photos, self.generated)

    def build(self) -> Network:
        """A network in its training form, with the random weights of the recipe's seed."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.recipe.seed)
            return self.architecture.build(self.config)


def stage_crops(recipe: TrainingRecipe, stage: int, photos: Sequence[Photo], generated: Sequence[Photo]) -> Crops:
    """The crops of a stage, counted from 0, of what a recipe trains on."""
    return Crops(
        photos,
        batch=recipe.stages[stage].batch,
        crop=recipe.stages[stage].crop,
        seed=(recipe.seed, stage),
        generated=generated,
        share=recipe.generated.share if recipe.generated else 0.0,
        degradation=recipe.degradation,
    )


def read_content(recipe: TrainingRecipe) -> tuple[list[Photo], list[Photo]]:
    """The photos that a recipe names, those to hold out among them, and its generated pictures.

    Raises: UsageError for folders without photos; ImageError for damaged ones.
    """
    config = config_of(recipe)
    if not recipe.hr:
        raise UsageError(f"recipe '{recipe.name}': no photos; name folders of HR photos in `hr`, or with --hr")
    photos = read_photos(recipe.hr, config.scale, colors=config.colors)
    if recipe.generated is None:
        return photos, []
    side = 2 * (max(stage.crop for stage in recipe.stages) + 2 * MARGIN * config.scale)
    return photos, generated_photos(recipe.generated, side, config.scale, colors=config.colors, seed=recipe.seed)


def prepare(recipe: TrainingRecipe) -> TrainingJob:
    """Read all photos of a recipe into memory, and its teacher, and find its device.

    Raises: UsageError for folders without photos, or a teacher that does not fit; CheckpointError for a teacher that cannot be
    read; ImageError for damaged photos; BackendUnavailableError without the GPU asked for.
    """
    device, config = _device(recipe), config_of(recipe)
    photos, generated = read_content(recipe)
    if recipe.validation_hr:
        validation = read_photos(recipe.validation_hr, config.scale, colors=config.colors, lr_folder=recipe.validation_lr)
    else:
        photos, validation = hold_out(photos, recipe.hold_out)
    if not validation:
        raise UsageError(f"recipe '{recipe.name}': no photos to validate on; set hold_out, or name folders in validation_hr")
    shown = validation
    if recipe.degradation is not None and not recipe.validation_lr:
        shown = degraded_photos(validation, recipe.degradation, recipe.seed)
    teacher = _teacher(recipe, config, validation if recipe.teacher_sees == "clean" else shown, device)
    bicubic = validate_bicubic(shown)
    return TrainingJob(recipe, architecture_of(recipe), config, device, photos, shown, bicubic, generated, teacher)


def _teacher(recipe: TrainingRecipe, config: Config, validation: list[Photo], device: torch.device) -> Teacher | None:
    wanted = any(stage.losses.teacher for stage in recipe.stages)
    if wanted and not recipe.teacher:
        raise UsageError(f"recipe '{recipe.name}': no teacher; name a bundle or a checkpoint in `teacher`, or with --teacher")
    if recipe.teacher and not wanted:
        raise UsageError(
            f"recipe '{recipe.name}': a teacher, but no stage has a weight for its loss; set losses = {{ teacher = 1.0 }}"
        )
    if not wanted:
        return None
    path, bicubic = resolve(recipe.teacher), validate_bicubic(validation)
    return read_teacher(path, config, validation, bicubic, device, license_name=recipe.teacher_license)


def _device(recipe: TrainingRecipe) -> torch.device:
    there = torch.cuda.is_available()
    if recipe.device == "cuda" and not there:
        raise BackendUnavailableError("device 'cuda': torch sees no GPU here; install torch for CUDA, or set device = 'cpu'")
    return torch.device("cuda" if there and recipe.device != "cpu" else "cpu")
