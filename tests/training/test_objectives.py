"""The parts of mask-guided networks: what each stage computes, compares and leaves alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_deploy.architectures import load_checkpoint
from sr_deploy.architectures.mga import MaskGuided, MGAConfig, crops, paste
from sr_deploy.architectures.pan_mga import ARCHITECTURE as PAN_MGA
from sr_deploy.architectures.rfdn_mga import ARCHITECTURE as RFDN_MGA
from sr_deploy.errors import UsageError
from sr_deploy.training import train
from sr_deploy.training.losses import Loss
from sr_deploy.training.objectives import error_map, objective
from sr_deploy.training.optimization import Optimization
from sr_deploy.training.recipe import LossWeights, TrainedPart, TrainingStage
from tests.training.conftest import MakeRecipe

PAN = MGAConfig(scale=2, colors=3, channels=8, blocks=3, refine_blocks=1)
RFDN = MGAConfig(scale=4, colors=3, channels=8, blocks=2, refine_blocks=1)
NETWORKS = [(PAN_MGA, PAN), (RFDN_MGA, RFDN)]
NETWORK = "scale = 2\ncolors = 3\nchannels = 8\nblocks = 3\nrefine_blocks = 1"


def build(architecture: object = PAN_MGA, config: MGAConfig = PAN) -> MaskGuided:
    torch.manual_seed(5)
    network = architecture.build(config)  # type: ignore[attr-defined]
    assert isinstance(network, MaskGuided)
    return network


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("architecture", "config"), NETWORKS, ids=["pan", "rfdn"])
def test_all_patches_at_once_are_the_patches_one_by_one(architecture: object, config: MGAConfig) -> None:
    network, x = build(architecture, config).eval(), images(2, 3, 12, 20)
    with torch.no_grad():
        whole = network(x)
        for number in range(2):
            coarse, features, scores = network.look(x[number : number + 1])
            one = coarse
            for patch in range(scores.numel()):
                chosen = torch.tensor([patch])
                one = paste(one, network.refine(crops(features, chosen)), chosen)
            torch.testing.assert_close(whole[number], one[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(network.features(x[number : number + 1]), features)
            torch.testing.assert_close(network.score(features), scores)


@pytest.mark.parametrize(("architecture", "config"), NETWORKS, ids=["pan", "rfdn"])
def test_the_plain_network_takes_any_size(architecture: object, config: MGAConfig) -> None:
    network = build(architecture, config).eval()
    with torch.no_grad():
        assert network.decomposed(images(1, 3, 13, 7)).shape == (1, 3, 13 * config.scale, 7 * config.scale)


@pytest.mark.parametrize("colors", [1, 3])
def test_the_error_map_is_numpys(colors: int) -> None:
    coarse, refined = (images(3, colors, 16, 24), images(3, colors, 16, 24) ** 2)
    difference = (refined - coarse).double().numpy()
    weights = np.array([0.299, 0.587, 0.114] if colors == 3 else [1.0])
    error = np.abs(np.einsum("nchw,c->nhw", difference, weights))
    expected = (error / error.max()).reshape(3, 2, 8, 3, 8).mean((2, 4))
    np.testing.assert_allclose(error_map(coarse, refined, 2)[:, 0].numpy(), expected, atol=1e-6)


def test_two_equal_images_have_no_error() -> None:
    assert error_map(images(1, 3, 8, 8), images(1, 3, 8, 8), 2).abs().max() == 0


@pytest.mark.parametrize(
    ("part", "trained"),
    [("decomposed", {"base", "refine"}), ("patches", {"base", "refine"}), ("mask", {"mask"})],
)
def test_a_stage_trains_its_part_alone(part: TrainedPart, trained: set[str]) -> None:
    network = build()
    before, average = copy.deepcopy(network.state_dict()), copy.deepcopy(network)
    stage = TrainingStage(steps=3, batch=2, crop=16, learning_rate=1e-2, losses=LossWeights(l1=1.0), ema=0.5, part=part)
    loss = Loss(stage.losses, 3, 1)
    run = Optimization(objective(stage, network, 1.0, loss), objective(stage, average, 1.0, loss), stage, half=False)
    values = [run.step(number, images(2, 3, 8, 8), images(2, 3, 16, 16)) for number in range(3)]
    assert values[2] < values[0]
    for after in (network.state_dict(), average.state_dict()):
        changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == trained


@pytest.mark.parametrize("coarse", [1.0, 0.25, 0.0])
def test_the_base_s_own_image_counts_as_the_stage_says(coarse: float) -> None:
    network, lr, hr = build(), images(2, 3, 8, 8), images(2, 3, 16, 16)
    stage = TrainingStage(
        steps=1, batch=2, crop=16, learning_rate=1e-2, losses=LossWeights(l1=1.0), part="patches", coarse=coarse
    )
    patches = objective(stage, network, 1.0, Loss(stage.losses, 3, 1))
    with torch.no_grad():
        own = float(patches.loss(patches.outputs(lr), hr, lr))
        expected = coarse * F.l1_loss(network.base(lr), hr) + F.l1_loss(network(lr), hr)
    assert own == pytest.approx(float(expected))


def test_the_plain_network_has_no_use_for_the_base_s_upsampler() -> None:
    network = build()
    torch.autograd.backward(F.l1_loss(network.decomposed(images(1, 3, 8, 8)), images(1, 3, 16, 16)))
    unused = {name.split(".")[1] for name, weight in network.named_parameters() if weight.grad is None}
    assert {name for name in unused if name not in ("spa_mask_1", "conv_kernel")} == {"upconv1", "att1", "HRconv1", "conv_last"}


THREE = [{"part": part, "steps": 3, "crop": 32} for part in ("decomposed", "patches", "mask")]


def stages(recipe_stage: TrainingStage) -> tuple[TrainingStage, ...]:
    return tuple(replace(recipe_stage, **step) for step in THREE)  # type: ignore[arg-type]


def test_three_steps_leave_a_mask_guided_network(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    plain = TrainingStage(steps=3, batch=2, crop=32, learning_rate=1e-3, losses=LossWeights(l1=1.0))
    recipe = make_recipe("pan_mga", NETWORK, stages=stages(plain))
    trained = train(recipe, tmp_path / "run")
    assert load_checkpoint(trained.checkpoint).architecture.name == "pan_mga"
    one, two, end = (
        torch.load(tmp_path / "run" / name, weights_only=True)["params"]
        for name in ("stage_1.pth", "stage_2.pth", "training_form.pth")
    )
    assert any(not torch.equal(one[key], two[key]) for key in one if key.startswith("refine."))
    assert all(torch.equal(two[key], end[key]) for key in end if not key.startswith("mask."))


@pytest.mark.parametrize(
    ("architecture", "network", "stage", "words"),
    [
        ("pan_mga", NETWORK, {"part": "whole"}, "pan_mga is trained by 'decomposed', 'patches' or 'mask'"),
        ("pan_mga", NETWORK, {"part": "mask", "losses": LossWeights(mse=1.0)}, "a mask learns the error map by L1 alone"),
        ("pan_mga", NETWORK, {"part": "mask", "coarse": 0.5}, "a weight of the part 'patches'"),
        ("ecbsr", None, {"part": "mask"}, "ecbsr is trained by 'whole'"),
        ("pan_mga", NETWORK, {"part": "mask", "crop": 20}, "no multiple of 8, a patch of 4 LR pixels; 16 is"),
    ],
)
def test_parts_that_do_not_fit(
    make_recipe: MakeRecipe, architecture: str, network: str | None, stage: dict[str, object], words: str
) -> None:
    plain = TrainingStage(steps=3, batch=2, crop=32, learning_rate=1e-3, losses=LossWeights(l1=1.0))
    given = (architecture, network) if network else (architecture,)
    with pytest.raises(UsageError, match=words):
        make_recipe(*given, stages=(replace(plain, **stage),))  # type: ignore[arg-type]
