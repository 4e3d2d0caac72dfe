"""What a recipe asks for, made ready: network, photos, device."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sr_deploy.architectures import Architecture, Config, Network
from sr_deploy.errors import BackendUnavailableError, UsageError
from sr_deploy.training.photos import Photo, fingerprint, hold_out, read_photos
from sr_deploy.training.recipe import TrainingRecipe, architecture_of, config_of
from sr_deploy.training.teacher import Teacher, read_teacher
from sr_deploy.training.validation import ValidationScore, validate_bicubic

WITHOUT_EFFECT = (
    *("name", "hr", "validation_hr", "validation_lr", "start", "teacher"),
    *("validate_every", "save_every", "device", "threads"),
)
"""What a run may be interrupted and gone on with differently; photos are known by their pixels, a teacher by its bytes."""


@dataclass(frozen=True)
class TrainingJob:
    """A recipe with everything in memory that its steps need."""

    recipe: TrainingRecipe
    architecture: Architecture[Any]
    config: Config
    device: torch.device
    photos: list[Photo]
    validation: list[Photo]
    bicubic: ValidationScore
    teacher: Teacher | None = None

    @property
    def identity(self) -> str:
        """What the trained weights depend on, in few letters."""
        settings = {key: value for key, value in asdict(self.recipe).items() if key not in WITHOUT_EFFECT}
        settings |= {"config": asdict(self.config), "photos": fingerprint(self.photos)}
        settings |= {"teacher": self.teacher.sha256} if self.teacher else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def build(self) -> Network:
        """A network in its training form, with the random weights of the recipe's seed."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.recipe.seed)
            return self.architecture.build(self.config)


def prepare(recipe: TrainingRecipe) -> TrainingJob:
    """Read all photos of a recipe into memory, and its teacher, and find its device.

    Raises: UsageError for folders without photos, or a teacher that does not fit; CheckpointError for a teacher that cannot be
    read; ImageError for damaged photos; BackendUnavailableError without the GPU asked for.
    """
    device, config = _device(recipe), config_of(recipe)
    if not recipe.hr:
        raise UsageError(f"recipe '{recipe.name}': no photos; name folders of HR photos in `hr`, or with --hr")
    photos = read_photos(recipe.hr, config.scale, colors=config.colors)
    if recipe.validation_hr:
        validation = read_photos(recipe.validation_hr, config.scale, colors=config.colors, lr_folder=recipe.validation_lr)
    else:
        photos, validation = hold_out(photos, recipe.hold_out)
    if not validation:
        raise UsageError(f"recipe '{recipe.name}': no photos to validate on; set hold_out, or name folders in validation_hr")
    bicubic = validate_bicubic(validation)
    teacher = _teacher(recipe, config, validation, bicubic, device)
    return TrainingJob(recipe, architecture_of(recipe), config, device, photos, validation, bicubic, teacher)


def _teacher(
    recipe: TrainingRecipe, config: Config, validation: list[Photo], bicubic: ValidationScore, device: torch.device
) -> Teacher | None:
    wanted = any(stage.losses.teacher for stage in recipe.stages)
    if wanted and not recipe.teacher:
        raise UsageError(f"recipe '{recipe.name}': no teacher; name a checkpoint in `teacher`, or with --teacher")
    if recipe.teacher and not wanted:
        raise UsageError(
            f"recipe '{recipe.name}': a teacher, but no stage has a weight for its loss; set losses = {{ teacher = 1.0 }}"
        )
    return read_teacher(Path(recipe.teacher), config, validation, bicubic, device) if wanted else None


def _device(recipe: TrainingRecipe) -> torch.device:
    there = torch.cuda.is_available()
    if recipe.device == "cuda" and not there:
        raise BackendUnavailableError("device 'cuda': torch sees no GPU here; install torch for CUDA, or set device = 'cpu'")
    return torch.device("cuda" if there and recipe.device != "cpu" else "cpu")
