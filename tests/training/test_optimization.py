"""Schedules, the averaged weights, and losses that are no numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sr_deploy.errors import UnhealthyOutputError
from sr_deploy.training.losses import Loss
from sr_deploy.training.objectives import Objective
from sr_deploy.training.optimization import Optimization, learning_rate
from sr_deploy.training.recipe import LossWeights, TrainingStage


def stage(**fields: object) -> TrainingStage:
    return TrainingStage(
        **{"steps": 100, "batch": 1, "crop": 8, "learning_rate": 1e-2, "losses": LossWeights(l1=1.0), **fields}
    )  # type: ignore[arg-type]


def test_schedules() -> None:
    assert [learning_rate(stage(), step) for step in (0, 99)] == [1e-2, 1e-2]
    halving = stage(schedule="halving", halve_every=40)
    assert [learning_rate(halving, step) for step in (0, 39, 40, 80)] == [1e-2, 1e-2, 5e-3, 2.5e-3]


def test_cosine_is_torchs() -> None:
    cosine = stage(schedule="cosine", final_learning_rate=1e-4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=1e-4)
    for step in range(100):
        assert learning_rate(cosine, step) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def optimization(module: nn.Module, **fields: object) -> tuple[Optimization, nn.Module]:
    average = copy.deepcopy(module)
    chosen = stage(**fields)
    own, followed = (Objective(one, 1.0, Loss(chosen.losses, 1, 1)) for one in (module, average))
    return Optimization(own, followed, chosen, half=False), average


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, 6, 6, generator=generator), torch.rand(2, 1, 6, 6, generator=generator)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_follows_the_weights(decay: float) -> None:
    module = nn.Conv2d(1, 1, 3, padding=1)
    run, average = optimization(module, ema=decay)
    expected = average.weight.detach().clone()
    for number in range(200):
        run.step(number, *batch())
        share = min(decay, (1 + number) / (10 + number))
        expected = share * expected + (1 - share) * module.weight.detach()
    torch.testing.assert_close(average.weight.detach(), expected)


def test_steps_are_adams() -> None:
    module = nn.Conv2d(1, 1, 3, padding=1)
    twin = copy.deepcopy(module)
    run, _ = optimization(module, schedule="halving", halve_every=2)
    adam = torch.optim.Adam(twin.parameters(), 1e-2)
    for number in range(6):
        lr, hr = batch()
        adam.param_groups[0]["lr"] = 1e-2 * 0.5 ** (number // 2)
        adam.zero_grad()
        expected = (twin(lr) - hr).abs().mean()
        expected.backward()
        adam.step()
        assert run.step(number, lr, hr) == pytest.approx(expected.item())
    torch.testing.assert_close(module.weight, twin.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stops_before_the_weights_change(value: float) -> None:
    module = nn.Conv2d(1, 1, 3, padding=1)
    run, average = optimization(module)
    run.step(0, *batch())
    before = [module.weight.detach().clone(), average.weight.detach().clone()]
    lr, hr = batch()
    with pytest.raises(UnhealthyOutputError, match="the loss is"):
        run.step(1, lr * value, hr)
    assert torch.equal(module.weight, before[0]) and torch.equal(average.weight, before[1])
