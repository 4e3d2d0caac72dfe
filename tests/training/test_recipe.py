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


DEGRADED = """
[generated]
share = 0.2

[degradation]
clean = 0.1
video = { probability = 0.1, crf = [18, 30] }

[[degradation.rounds]]
blur = { probability = 0.5, sigma = [0.2, 2.0] }
resize = { factor = [0.5, 1.0], kernels = ["area", "bicubic"] }
noise = { sigma = [1.0, 9.0], peak = [50.0, 500.0] }
jpeg = { quality = [30, 90], subsampling = ["4:2:0"] }
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("share = 0.2", "share = 1.2", "generated: expected a share of 0 to 1"),
        ("share = 0.2", "share = 0.2\nkinds = ['test']", "'test' is not one of 'text', 'line art'"),
        ("share = 0.2", "share = 0.2\nkinds = []", "generated: expected .* one kind at least"),
        ("clean = 0.1", "clean = -0.1", "degradation: clean -0.1 is no share; expected 0 to 1"),
        ("clean = 0.1", "order = 'random'", "'random' is not one of 'fixed', 'shuffled'"),
        ("crf = [18, 30]", "crf = [18, 60]", r"video: crf \[18, 60\]; expected two from 0 to 51"),
        ("crf = [18, 30]", "crf = [18, 30], frames = 0", "video: frames 0; expected 1 to 30"),
        ("probability = 0.5", "probability = 5", "round 1: blur: probability 5 is no share"),
        ("sigma = [0.2, 2.0]", "sigma = [2.0, 0.2]", r"blur: sigma \[2, 0.2\]; expected two from 0.01 to 7, the smaller first"),
        ("sigma = [0.2, 2.0]", "sigma = 2.0", "sigma: expected a list, got 2.0"),
        ("factor = [0.5, 1.0]", "factor = [0, 1]", r"resize: factor \[0, 1\]; expected two from 0.05"),
        ('"area"', '"aera"', "'aera' is not one of 'area', 'bilinear', 'bicubic'"),
        ('["area", "bicubic"]', "[]", "resize: kernels names none"),
        ("peak = [50.0, 500.0]", "peak = [0.0, 500.0]", r"noise: peak \[0, 500\]; expected two from 1"),
        ("quality = [30, 90]", "quality = [0, 90]", r"jpeg: quality \[0, 90\]; expected two from 1 to 100"),
        ("quality = [30, 90]", "quality = [30.5, 90]", "quality: expected int, got 30.5"),
        ('["4:2:0"]', '["4:1:0"]', "'4:1:0' is not one of '4:4:4', '4:2:2', '4:2:0'"),
        ("jpeg = {", "jpg = {", "unknown key 'jpg'; did you mean 'jpeg'"),
    ],
)
def test_mistakes_of_degradations_are_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = RECIPE.format(architecture="ecbsr", network="scale = 2\ncolors = 3\nchannels = 8") + DEGRADED
    assert text.count(old) >= 1
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as error:
        read_recipe(path)
    assert "\n" not in str(error.value)


def test_degradations_want_rounds_and_colors(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("degradation = { rounds = [] }" + RECIPE.format(architecture="ecbsr", network="scale = 2\ncolors = 3"))
    with pytest.raises(UsageError, match="degradation: no rounds"):
        read_recipe(path)
    path.write_text(RECIPE.format(architecture="ecbsr", network="scale = 2\ncolors = 1") + DEGRADED)
    with pytest.raises(UsageError, match="degradation: of RGB pictures, and the network has 1 color"):
        read_recipe(path)


def test_a_teacher_beside_the_recipe_comes_before_one_in_the_box(make_recipe: MakeRecipe, photos: Path) -> None:
    make_recipe()
    path = photos.parent / "taught.toml"
    text = (photos.parent / "tiny.toml").read_text(encoding="utf-8")
    path.write_text(text.replace("seed = 3", 'seed = 3\nteacher = "quality-small-x2"'), encoding="utf-8")
    assert read_recipe(path).teacher == "quality-small-x2"
    (photos.parent / "quality-small-x2").mkdir()
    try:
        assert read_recipe(path).teacher == str(photos.parent / "quality-small-x2")
    finally:
        (photos.parent / "quality-small-x2").rmdir()


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
