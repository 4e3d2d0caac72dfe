"""What a stage computes and compares: the whole network, or one part of a mask-guided one.

Source of the three parts and their order: Hu et al., Restore Globally, Refine Locally: A Mask-Guided Scheme to Accelerate
Super-Resolution Networks, ECCV 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures import reference
from sr_deploy.architectures.mga import PATCH, MaskGuided
from sr_deploy.metrics import BT601
from sr_deploy.training.losses import Loss
from sr_deploy.training.recipe import TrainingStage

LUMA = tuple(weight / sum(BT601) for weight in BT601)
"""Weights of red, green and blue in Y of [0, 1]."""

REFINED = 0.2
"""Share of the patches that are refined where a mask is validated."""


class Objective:
    """`outputs` of a batch, their `loss`, and the image that is validated; images are (N, C, H, W) in [0, 1], maps of patches
    (N, 1, H/4, W/4)."""

    def __init__(self, network: nn.Module, value_range: float, loss: Loss) -> None:
        self._module: nn.Module = reference(network, value_range)
        self._loss = loss

    @property
    def parameters(self) -> list[Tensor]:
        return list(self._module.parameters())

    def outputs(self, lr: Tensor) -> tuple[Tensor, ...]:
        """What the loss is computed from; the last one is the image that is validated."""
        return (self._module(lr),)

    def loss(self, outputs: tuple[Tensor, ...], hr: Tensor, lr: Tensor, taught: Tensor | None = None) -> Tensor:
        """A scalar; `taught` is the teacher's image, where there is a teacher."""
        (image,) = outputs
        total: Tensor = self._loss(image, hr, lr, taught)
        return total

    def upscaled(self, lr: Tensor) -> Tensor:
        """The image of one photo, of any size."""
        return self.outputs(lr)[-1]


class Decomposed(Objective):
    """Base and refine network as one plain network (-D); mask-guided networks all run on [0, 1]."""

    def __init__(self, network: MaskGuided, loss: Loss) -> None:
        super().__init__(network, 1.0, loss)
        self._network = network

    def outputs(self, lr: Tensor) -> tuple[Tensor, ...]:
        return (self._network.decomposed(lr),)


class EveryPatch(Decomposed):
    """The base's own image, whose loss counts `coarse`, and all patches refined (-A)."""

    def __init__(self, network: MaskGuided, loss: Loss, coarse: float = 1.0) -> None:
        super().__init__(network, loss)
        self._coarse = coarse

    def outputs(self, lr: Tensor) -> tuple[Tensor, ...]:
        coarse, features, _ = self._network.look(lr)
        return coarse, self._network.refine_all(features)

    def loss(self, outputs: tuple[Tensor, ...], hr: Tensor, lr: Tensor, taught: Tensor | None = None) -> Tensor:
        coarse, refined = outputs
        total: Tensor = self._coarse * self._loss(coarse, hr, lr, taught) + self._loss(refined, hr, lr, taught)
        return total

    def upscaled(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[2:]
        padded = F.pad(lr, (0, -width % PATCH, 0, -height % PATCH), mode="replicate")
        image = self._image(padded)
        scale = image.shape[2] // padded.shape[2]
        return image[:, :, : height * scale, : width * scale]

    def _image(self, lr: Tensor) -> Tensor:
        """The image that is validated; height and width are multiples of a patch."""
        return self._network(lr)  # type: ignore[no-any-return]


class Mask(EveryPatch):
    """The mask's scores beside the error that refining takes away (-M); base and refine network stay as they are."""

    def outputs(self, lr: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            coarse, features, _ = self._network.look(lr)
            refined = self._network.refine_all(features)
        return self._network.score(features), coarse, refined

    def loss(self, outputs: tuple[Tensor, ...], hr: Tensor, lr: Tensor, taught: Tensor | None = None) -> Tensor:
        del taught
        scores, coarse, refined = outputs
        return self._loss.weights.l1 * F.l1_loss(scores, error_map(coarse, refined, hr.shape[2] // lr.shape[2]))

    def _image(self, lr: Tensor) -> Tensor:
        patches = lr.shape[2] // PATCH * (lr.shape[3] // PATCH)
        return self._network.masked(lr, max(1, round(REFINED * patches)))


def error_map(coarse: Tensor, refined: Tensor, scale: int) -> Tensor:
    """|Y(refined) - Y(coarse)|, 1 where it is largest in the batch, averaged over each patch: (N, 1, H/4, W/4)."""
    difference = refined - coarse
    if difference.shape[1] == 3:
        difference = (difference * difference.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    error = difference.abs()
    return F.avg_pool2d(error / error.max().clamp_min(1e-12), PATCH * scale)


def objective(stage: TrainingStage, network: nn.Module, value_range: float, loss: Loss) -> Objective:
    """What a stage minimizes."""
    if stage.part == "whole":
        return Objective(network, value_range, loss)
    assert isinstance(network, MaskGuided)
    if stage.part == "patches":
        return EveryPatch(network, loss, stage.coarse)
    return {"decomposed": Decomposed, "mask": Mask}[stage.part](network, loss)
