"""Recipe -> trained checkpoint."""

from __future__ import annotations

from sr_deploy.training.recipe import TrainingRecipe, read_recipe
from sr_deploy.training.sheet import show_degradations
from sr_deploy.training.trainer import Trained, train

__all__ = ["Trained", "TrainingRecipe", "read_recipe", "show_degradations", "train"]
