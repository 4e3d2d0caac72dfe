"""Whole runs on tiny photos: what they leave, and that an interruption leaves no trace in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sr_deploy.architectures import load_checkpoint
from sr_deploy.errors import BackendUnavailableError, CancelledError, UnhealthyOutputError, UsageError
from sr_deploy.training import train
from sr_deploy.training.losses import Loss
from tests.training.conftest import MakeRecipe

REPRFN = "scale = 2\ncolors = 3\nchannels = 8\nblocks = 1\nesa = 4"
SPAN = "scale = 2\ncolors = 3\nchannels = 8\njoined = 8\nblocks = 1"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "training_form.pth", weights_only=True)["params"]
    return state


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def after(steps: int) -> Callable[[], bool]:
    """Says stop once, after that many steps."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) == steps


@pytest.mark.parametrize(("architecture", "network"), [("ecbsr", None), ("reprfn", REPRFN), ("span", SPAN)])
def test_a_run_leaves_a_checkpoint_that_is_recognized(
    make_recipe: MakeRecipe, tmp_path: Path, architecture: str, network: str | None
) -> None:
    recipe = make_recipe(architecture, network) if network else make_recipe(architecture)
    said: list[str] = []
    trained = train(recipe, tmp_path / "run", say=said.append)
    loaded = load_checkpoint(trained.checkpoint)
    assert loaded.architecture.name == architecture
    assert loaded.readings[0].config.merged  # type: ignore[attr-defined]
    assert 0 < trained.merge_difference < 1e-4
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("checkpoint.pth", "training_form.pth", "stage_1.pth", "state.pth"),
        *("training.json", "recipe.toml", "log.csv", "curve.png", "lock"),
    }
    rows = read_log(tmp_path / "run")
    assert [(row["step"], row["stage"]) for row in rows] == [("4", "1"), ("6", "1"), ("8", "2"), ("11", "2")]
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    assert facts["score"]["psnr_y"] == trained.score.psnr_y == float(rows[-1]["psnr_y"])
    assert facts["validation"] == ["d.JPG"] and facts["photos"] == 3
    assert any("waiting for photos" in line for line in said)


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 9])
def test_an_interrupted_run_ends_in_the_same_weights(make_recipe: MakeRecipe, tmp_path: Path, stop: int) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "whole")
    with pytest.raises(CancelledError, match=rf"interrupted after step {stop} of 11"):
        train(recipe, tmp_path / "parts", stopped=after(stop))
    said: list[str] = []
    train(recipe, tmp_path / "parts", say=said.append)
    assert any(f"going on after step {stop} of 11" in line for line in said)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    logs = [[{**row, "seconds": ""} for row in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_the_seed_decides(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        train(make_recipe(seed=seed), tmp_path / name)
    one, again, other = (weights(tmp_path / name) for name in ("one", "again", "other"))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_the_same_command_again_trains_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = train(make_recipe(), tmp_path / "run")
    again = train(make_recipe(), tmp_path / "run", stopped=lambda: True)
    assert (again.score, again.seconds) == (first.score, first.seconds)


def test_another_recipe_does_not_go_on_in_the_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(), tmp_path / "run")
    with pytest.raises(UsageError, match="another recipe or other photos"):
        train(make_recipe(seed=9), tmp_path / "run")


def test_nan_stops_with_the_step_and_keeps_the_last_good_state(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Loss.forward, iter(range(1, 100))

    def broken(self: Loss, *images: torch.Tensor) -> torch.Tensor:
        return forward(self, *images) * (float("nan") if next(calls) == 8 else 1)

    monkeypatch.setattr(Loss, "forward", broken)
    with pytest.raises(UnhealthyOutputError, match=r"step 8, stage 2: the loss is nan.*the last good state, of step 6, is"):
        train(make_recipe(), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pth", weights_only=True)
    assert (state["stage"], state["step"]) == (0, 6)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["params"].values())


def test_another_scale_starts_from_what_was_trained(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = train(make_recipe(), tmp_path / "x2")
    said: list[str] = []
    recipe = make_recipe(network="scale = 4\ncolors = 3\nchannels = 8\nblocks = 1", start=str(first.training_form))
    train(recipe, tmp_path / "x4", say=said.append)
    assert any("tensors of" in line and "random as before: backbone.2." in line for line in said)


def test_training_learns(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Nearest neighbor, where the network begins, is beaten by bicubic; a few hundred steps must come near."""
    recipe = make_recipe()
    stage = recipe.stages[0]

    longer = replace(recipe, stages=(replace(stage, steps=150, batch=4, ema=0.9),), validate_every=50, save_every=1000)
    train(longer, tmp_path / "run")
    rows = read_log(tmp_path / "run")
    assert float(rows[-1]["psnr_y"]) > float(rows[0]["psnr_y"]) + 0.5


def test_torch_keeps_its_threads(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    train(make_recipe(threads=1), tmp_path / "run")
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="torch sees no GPU here"):
        train(make_recipe(device="cuda"), tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_in_bf16_and_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(device="cuda")
    with pytest.raises(CancelledError):
        train(recipe, tmp_path / "run", stopped=after(5))
    assert train(recipe, tmp_path / "run").merge_difference < 1e-4


def test_recipes_without_photos_say_so(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photos; name folders"):
        train(make_recipe(hr=()), tmp_path / "run")
    with pytest.raises(UsageError, match="no photos to validate on"):
        train(make_recipe(hold_out=0), tmp_path / "run")
    with pytest.raises(UsageError, match=r"none of the 3 photos is 200x200"):
        recipe = make_recipe()
        train(replace(recipe, stages=(replace(recipe.stages[0], crop=200),)), tmp_path / "run")
