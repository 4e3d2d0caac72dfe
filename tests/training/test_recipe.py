"""Recipes: strict keys, folders, and values that cannot be."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.architectures import REGISTRY
from sr_deploy.architectures.ecbsr import ECBSRConfig
from sr_deploy.errors import UsageError
from sr_deploy.training import read_recipe
from sr_deploy.training.recipe import as_toml, config_of, portable
from tests.training.conftest import RECIPE, MakeRecipe

SHIPPED = sorted((Path(__file__).parents[2] / "training").glob("*.toml"))


def test_folders_are_relative_to_the_recipe(make_recipe: MakeRecipe, photos: Path) -> None:
    assert make_recipe().hr == (str(photos),)


def test_what_is_given_wins_and_stays_as_it_is(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(hr=("elsewhere",), threads=2)
    assert (recipe.hr, recipe.threads, recipe.steps) == (("elsewhere",), 2, 11)


def test_blocks_are_of_the_training_form(make_recipe: MakeRecipe) -> None:
    assert config_of(make_recipe()) == ECBSRConfig(scale=2, colors=3, channels=8, blocks=1, merged=False)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 3", "sead = 3", "unknown key 'sead'; did you mean 'seed'"),
        ("ema = 0.8", "emma = 0.8", "unknown key 'emma'; did you mean 'ema'"),
        ("channels = 8", "chanels = 8", "unknown key 'chanels'; did you mean 'channels'"),
        ('architecture = "ecbsr"', 'architecture = "ecbs"', "unknown architecture 'ecbs'; did you mean 'ecbsr'"),
        ('architecture = "ecbsr"', 'architecture = "ECBSR"', "unknown architecture 'ECBSR'; did you mean 'ecbsr'"),
        ("crop = 32", "crop = 33", "stage 1: crop 33 is no multiple of the scale 2; 32 is"),
        ("halve_every = 2", "", "stage 2: schedule 'halving' needs halve_every"),
        ("ema = 0.8", "ema = 1.0", r"ema 1.0 is not in \[0, 1\)"),
        ("l1 = 1.0", "l1 = 0.0", "losses must have a weight above 0"),
        ("l1 = 1.0", "l3 = 1.0", "unknown key 'l3'"),
        ("scale = 2", "scale = 0", "scale 0, colors 1; expected a scale from 2 on"),
        ("scale = 2", "scale = 2\ncolors = 4", "scale 2, colors 4; expected a scale from 2 on, and 3 colors or 1"),
        ('schedule = "cosine"', 'schedule = "cosin"', "'cosin' is not one of 'constant', 'halving', 'cosine'"),
        ("steps = 6", "steps = 0", "stage 1: steps, batch, crop and learning_rate must be above 0"),
        ("save_every = 3", "save_every = 0", "count steps from 1 on"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = RECIPE.format(architecture="ecbsr", network="scale = 2\nchannels = 8")
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


def test_a_recipe_without_stages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text('name = "x"\narchitecture = "rlfn"\nstages = []\n')
    with pytest.raises(UsageError, match="no stages"):
        read_recipe(path)


def test_crops_are_as_large_as_the_network_needs(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UsageError, match="stage 1: crop 32 is too small, the network takes LR of 15 and more; use 60"):
        make_recipe("reprfn", "scale = 4")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_that_was_written_reads_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path, start="runs/é 'x2' \"n\"/training_form.pth", hr=("some/where/T91",))
    copy = tmp_path / "copy.toml"
    copy.write_text(as_toml(portable(recipe)), encoding="utf-8")
    expected = replace(recipe, hr=(str(tmp_path / "T91"),), start=str(tmp_path / "é 'x2' \"n\"" / "training_form.pth"))
    assert read_recipe(copy) == expected


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert config_of(recipe).scale in (2, 3, 4)


def test_an_architecture_that_trains_has_a_recipe_of_its_paper_and_a_short_one() -> None:
    forms = [re.fullmatch(r"(\w+)_x\d(_short)?", path.stem) for path in SHIPPED]
    by_architecture = Counter(form[1] for form in forms if form and form[1] in {architecture.name for architecture in REGISTRY})
    short = {form[1] for form in forms if form and form[2]}
    assert short and all(by_architecture[name] > 1 for name in short)
    assert short == set(by_architecture)
