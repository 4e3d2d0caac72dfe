"""Recipe -> trained checkpoint."""

from __future__ import annotations

from sr_deploy.training.recipe import Recipe, read_recipe
from sr_deploy.training.trainer import Trained, train

__all__ = ["Recipe", "Trained", "read_recipe", "train"]
