"""The networks in the box and their recipes: trained again, each begins as it did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sr_deploy.models import available
from sr_deploy.settings import load_toml
from sr_deploy.training import TrainingRecipe, read_recipe

ROOT = Path(__file__).parents[2]
FIRST = json.loads((ROOT / "training" / "first_losses.json").read_text(encoding="utf-8"))
BOX = {model.folder.name: model for model in available()}


@pytest.mark.parametrize("name", sorted(BOX))
def test_a_network_comes_with_the_recipe_that_trains_it_again(name: str) -> None:
    recipe = BOX[name].recipe
    assert recipe is not None and name in FIRST
    used, offered = load_toml(recipe, TrainingRecipe), read_recipe(ROOT / "training" / f"{name.replace('-', '_')}.toml")
    for part in ("name", "architecture", "network", "stages", "seed", "hold_out", "degradation", "generated"):
        assert getattr(used, part) == getattr(offered, part), part


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(FIRST))
def test_its_first_losses_are_the_same_again(shared: Path, name: str) -> None:
    command = [sys.executable, str(ROOT / "training" / "first_losses.py"), str(shared / "images" / "train"), name]
    for folder in (shared / "checkpoints", shared / "next" / "checkpoints"):
        command += ["--published", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)[name] == pytest.approx(FIRST[name], rel=2e-3)
