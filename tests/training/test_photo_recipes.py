"""The recipes of `photo` and `photo-fast`, and runs on degraded crops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sr_deploy.errors import CancelledError
from sr_deploy.export.probes import probe_picture
from sr_deploy.pictures.image import read_image
from sr_deploy.training import TrainingRecipe, read_recipe, show_degradations, train
from sr_deploy.training.degradation.settings import Degradation, DegradationRound, Jpeg, Noise, Resampling, VideoCompression
from sr_deploy.training.generated import GeneratedContent
from sr_deploy.training.job import CAME_LATER, WITHOUT_EFFECT, prepare, read_content, stage_crops
from tests import short_and_long
from tests.training.conftest import MakeRecipe

RECIPES = ("photo_x2", "photo_x4", "photo_fast_x2", "photo_fast_x4")
DEGRADED = Degradation(
    (DegradationRound(resize=Resampling(factor=(0.8, 1.2), antialias=0.5), noise=Noise(poisson=0.5), jpeg=Jpeg()),),
    clean=0.2,
    video=VideoCompression(0.2),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of 144x144, a bit more than the largest crop of the recipes."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = cv2.cvtColor(cv2.resize(probe_picture(), (288, 288)), cv2.COLOR_RGB2BGR)
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), picture[:144, 144 * number :][:, :144])
    return folder


def shortened(recipe: TrainingRecipe) -> TrainingRecipe:
    """Five steps of one crop."""
    assert recipe.generated is not None
    stages = tuple(replace(stage, steps=steps, batch=1) for stage, steps in zip(recipe.stages, (3, 2), strict=True))
    return replace(recipe, stages=stages, hold_out=1, generated=replace(recipe.generated, pictures=2), device="cpu")


@pytest.mark.parametrize("name", short_and_long(RECIPES, ("photo_x2", "photo_fast_x4")))
def test_a_recipe_trains(name: str, pictures: Path, tmp_path: Path) -> None:
    recipe = shortened(read_recipe(name, hr=(str(pictures),)))
    trained = train(recipe, tmp_path / "run")
    assert trained.steps == 5 and trained.merge_difference < 1e-4
    told = json.loads((tmp_path / "run" / "training.json").read_text())["recipe"]
    assert len(told["degradation"]["rounds"]) == 2 and told["generated"]["pictures"] == 2
    assert read_recipe(tmp_path / "run" / "recipe.toml").degradation == recipe.degradation


@pytest.mark.parametrize("name", RECIPES)
def test_all_four_are_of_one_kind(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.degradation is not None and recipe.generated is not None
    last = recipe.degradation.rounds[-1].jpeg
    assert last is not None and last.quality[0] <= 30 and last.quality[1] >= 75 and last.probability < 1
    assert 0 < recipe.degradation.clean < 0.5
    assert recipe.architecture == ("ecbsr" if "fast" in name else "reprfn")


def test_an_interrupted_run_on_degraded_crops_ends_in_the_same_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(degradation=DEGRADED, generated=GeneratedContent(0.3, pictures=6))
    train(recipe, tmp_path / "whole")
    asked = iter(range(1, 1000))
    with pytest.raises(CancelledError):
        train(recipe, tmp_path / "parts", stopped=lambda: next(asked) == 4)
    train(recipe, tmp_path / "parts")
    whole, parts = (
        torch.load(tmp_path / name / "training_form.pth", weights_only=True)["params"] for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_validation_is_on_degraded_photos_unless_lr_is_given(make_recipe: MakeRecipe, photos: Path, tmp_path: Path) -> None:
    clean, degraded = prepare(make_recipe()), prepare(make_recipe(degradation=DEGRADED, seed=4))
    assert degraded.bicubic.psnr_y < clean.bicubic.psnr_y
    np.testing.assert_array_equal(degraded.validation[0].hr, clean.validation[0].hr)
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    cv2.imwrite(str(tmp_path / "hr" / "a.png"), clean.validation[0].hr[..., ::-1])
    cv2.imwrite(str(tmp_path / "lr" / "a.png"), clean.validation[0].lr[..., ::-1])
    folders = {"validation_hr": (str(tmp_path / "hr"),), "validation_lr": str(tmp_path / "lr")}
    given = prepare(make_recipe(degradation=DEGRADED, seed=4, hr=(str(photos),), **folders))
    np.testing.assert_array_equal(given.validation[0].lr, clean.validation[0].lr)


def test_runs_that_knew_nothing_of_it_keep_their_identity(make_recipe: MakeRecipe) -> None:
    """Otherwise their states could not be gone on from."""
    recipe = make_recipe()
    job = prepare(recipe)
    from sr_deploy.training.photos import fingerprint

    settings = {key: value for key, value in asdict(recipe).items() if key not in (*WITHOUT_EFFECT, *CAME_LATER)}
    settings |= {"config": asdict(job.config), "photos": fingerprint(job.photos)}
    assert job.identity == hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    changes: tuple[Callable[[], TrainingRecipe], ...] = (
        lambda: make_recipe(degradation=DEGRADED),
        lambda: make_recipe(degradation=replace(DEGRADED, clean=0.3)),
        lambda: make_recipe(generated=GeneratedContent(0.3, pictures=1)),
        lambda: make_recipe(generated=GeneratedContent(0.3, pictures=2)),
        lambda: make_recipe(teacher_sees="degraded"),
    )
    identities = {prepare(change()).identity for change in changes} | {job.identity}
    assert len(identities) == len(changes) + 1


def test_a_sheet_has_hr_and_lr_of_every_crop(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(degradation=DEGRADED, generated=GeneratedContent(0.5, pictures=6))
    show_degradations(recipe, tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png").pixels
    assert sheet.shape == (6 * 239, 4 * 396, 3)
    for index, example in enumerate(stage_crops(recipe, 1, *read_content(recipe)).examples(0)):
        top, left = 4, 396 * index + 4
        hr, lr = sheet[top : top + 192, left : left + 192], sheet[top : top + 192, left + 196 : left + 388]
        for shown, image in ((hr, example.hr), (lr, example.lr)):
            step = 192 // len(image)
            np.testing.assert_array_equal(shown[step // 2 :: step, step // 2 :: step], image)
    captions = sheet[4 + 192 : 239, :].min(axis=2)
    assert all((captions[:, 396 * column : 396 * (column + 1)] < 128).any() for column in range(4))


def test_the_sheet_of_a_recipe_without_degradation_is_bicubic(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    show_degradations(make_recipe(), tmp_path / "sheet.webp")
    assert read_image(tmp_path / "sheet.webp").format == "webp"
