"""One stage of the optimizer: schedule, steps, averaged weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sr_deploy.errors import UnhealthyOutputError
from sr_deploy.training.objectives import Objective
from sr_deploy.training.recipe import TrainingStage


def learning_rate(stage: TrainingStage, step: int) -> float:
    """Learning rate of a step, counted from 0 within the stage."""
    if stage.schedule == "halving":
        return stage.learning_rate * 0.5 ** (step // stage.halve_every)
    if stage.schedule == "cosine":
        share = (1 + math.cos(math.pi * step / stage.steps)) / 2
        return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * share
    return stage.learning_rate


class Optimization:
    """Adam on an objective; the weights of `average`, the same one on a network of its own, follow.

    `half`: bf16 where it is safe; weights and losses stay in fp32.
    """

    def __init__(self, objective: Objective, average: Objective, stage: TrainingStage, *, half: bool) -> None:
        self.stage, self.average = stage, average
        self._objective, self._half = objective, half
        self._parameters, self._averages = objective.parameters, average.parameters
        self._adam = torch.optim.Adam(self._parameters, stage.learning_rate, fused=True)

    def step(self, number: int, lr: Tensor, hr: Tensor, taught: Tensor | None = None) -> float:
        """Run step `number` of the stage on a batch in [0, 1], and return its loss; `taught` is what a teacher made of it.

        Raises: UnhealthyOutputError for a loss or a gradient with NaN or Inf, before any weight has changed.
        """
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(self.stage, number)
        self._adam.zero_grad(set_to_none=True)
        with torch.autocast(lr.device.type, torch.bfloat16, enabled=self._half):
            outputs = self._objective.outputs(lr)
        loss = self._objective.loss(tuple(output.float() for output in outputs), hr, lr, taught)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        value, total = torch.stack([loss.detach(), norm]).tolist()
        if not math.isfinite(value) or not math.isfinite(total):
            raise UnhealthyOutputError(f"the loss is {value:g}, the norm of its gradient {total:g}")
        self._adam.step()
        self._follow(number)
        return float(value)

    def state(self) -> dict[str, Any]:
        """What Adam remembers, for `restore`."""
        return self._adam.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of Adam; the weights are the caller's to restore."""
        self._adam.load_state_dict(state)

    def _follow(self, number: int) -> None:
        # The first weights of a stage would weigh too long: the average begins short.
        decay = min(self.stage.ema, (1 + number) / (10 + number))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)
