"""MGA: a base network for the whole image, a mask that scores its patches, and a refine network for those that need it.

    coarse, features, scores = network.look(x)
    patches = crops(features, best(scores, k))
    pixels = network.refine(patches)                # goes where the patches come from

Source: Hu et al., Restore Globally, Refine Locally: A Mask-Guided Scheme to Accelerate Super-Resolution Networks, ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of
from sr_deploy.architectures.architecture import Config
from sr_deploy.architectures.blocks import Foldable, Network, Options, Replacement, conv1, conv3

PATCH = 4
"""Side of a patch in LR pixels."""

PADDING = 1
"""LR pixels around a patch that the refine network sees too."""

PAPER = "Hu et al., Restore Globally, Refine Locally: A Mask-Guided Scheme to Accelerate Super-Resolution Networks, ECCV 2022"
MASK_KEYS = ("mask.spa_mask_1.0.weight", "mask.spa_mask_1.2.weight", "mask.conv_kernel.weight")
"""The mask predictor's weights: what tells a mask-guided network from a plain one."""


@dataclass(frozen=True)
class MGAConfig(Config):
    """The base of RFDN-MGA has `blocks`, its refine network `refine_blocks` more; PAN-MGA has `blocks` in all, the last
    `refine_blocks` of them in its refine network."""

    channels: int = 50
    blocks: int = 4
    refine_blocks: int = 2


class MaskPredictor(Foldable):
    """Scores for patches: (N, channels, H, W), H and W multiples of 4 -> (N, 1, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spa_mask_1 = nn.Sequential(conv3(channels, channels), nn.ReLU(), conv3(channels, 2))
        self.conv_kernel = conv1(1, 25)

    def forward(self, features: Tensor) -> Tensor:
        need = F.avg_pool2d(self.spa_mask_1(features).softmax(1)[:, 1:], PATCH)
        need = F.leaky_relu(need, 0.1)
        kernels = self.conv_kernel(need)  # (N, 25, H/4, W/4): a 5x5 kernel for every patch
        around = F.unfold(need, 5, padding=2).view_as(kernels)
        scores: Tensor = (kernels * around).sum(1, keepdim=True)
        return scores

    def reparameterized(self, options: Options) -> Replacement:  # noqa: ARG002
        hidden, last = self.spa_mask_1[0], self.spa_mask_1[2]
        assert isinstance(hidden, nn.Conv2d)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        # One of two by softmax is the sigmoid of their difference.
        difference = conv_of(last.weight[1:] - last.weight[:1], last.bias[1:] - last.bias[:1], padding=1)
        assert self.conv_kernel.bias is not None
        # A kernel is w q + b with the same w, b for every patch: its sum over the neighbors is q conv(q; w) + conv(q; b).
        kernels = torch.stack([self.conv_kernel.weight.view(1, 5, 5), self.conv_kernel.bias.view(1, 5, 5)])
        return Replacement(
            FoldedMask(hidden, difference, conv_of(kernels, None, padding=2)), "the mask's kernels folded into one conv"
        )


class FoldedMask(nn.Module):
    """The scores of a MaskPredictor, in convs alone."""

    def __init__(self, hidden: nn.Conv2d, need: nn.Conv2d, around: nn.Conv2d) -> None:
        super().__init__()
        self.hidden, self.need, self.around = hidden, need, around

    def forward(self, features: Tensor) -> Tensor:
        need = F.avg_pool2d(torch.sigmoid(self.need(F.relu(self.hidden(features)))), PATCH)
        around = self.around(need)
        scores: Tensor = need * around[:, :1] + around[:, 1:]
        return scores


class MaskGuided(Network):
    """A network of `base`, `mask` and `refine`; the forward refines every patch.

    As the paper calls them: -B is `base`, -D `decomposed`, -A the forward, -M `masked`.
    """

    base: Network
    mask: nn.Module
    refine: Network

    def look(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse image (N, C, sH, sW), features (N, channels, H, W), scores (N, 1, H/4, W/4); H and W are multiples of 4."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """The features alone, of images of any size."""
        raise NotImplementedError

    def score(self, features: Tensor) -> Tensor:
        """(N, channels, H, W), H and W multiples of 4 -> scores (N, 1, H/4, W/4)."""
        raise NotImplementedError

    def rescaled(self, features: Tensor, factor: float) -> Tensor:  # noqa: ARG002
        """Features whose share in the image, if they have any, is multiplied by `factor`."""
        return features

    def forward(self, x: Tensor) -> Tensor:
        return self.refine_all(self.features(x))

    def refine_all(self, features: Tensor) -> Tensor:
        """Every patch refined: (N, channels, H, W) -> (N, C, sH, sW)."""
        windows = _windows(features)
        images, _, down, across = windows.shape[:4]
        pixels = self.refine(windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        colors, side = pixels.shape[1:3]
        grid: Tensor = pixels.view(images, down, across, colors, side, side).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(images, colors, down * side, across * side)

    def decomposed(self, x: Tensor) -> Tensor:
        """Base and refine network as one plain network: an image of any size is its only patch."""
        y: Tensor = self.refine(F.pad(self.features(x), (PADDING,) * 4))
        return y

    def masked(self, x: Tensor, k: int) -> Tensor:
        """The `k` patches with the highest scores refined: one image (1, C, H, W), H and W multiples of 4."""
        coarse, features, scores = self.look(x)
        chosen = best(scores, k)
        return paste(coarse, self.refine(crops(features, chosen)), chosen)

    def fold_value_range(self, value_range: float) -> None:
        self.base.fold_value_range(value_range)
        self.refine.fold_value_range(value_range)


@dataclass(frozen=True)
class Parts:
    """A mask-guided network as two functions on [0, 1].

    `look`: x -> coarse, features, scores, as `MaskGuided.look`; `refine`: patches (K, F, 6, 6) -> (K, C, 4s, 4s).
    """

    look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    refine: Callable[[Tensor], Tensor]


def reference_parts(network: MaskGuided, value_range: float) -> Parts:
    """The parts of the network as published, which runs on [0, value_range]; it is used, not copied."""

    def look(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse, features, scores = network.look(x * value_range)
        return coarse / value_range, network.rescaled(features, 1 / value_range), scores

    def refine(patches: Tensor) -> Tensor:
        pixels: Tensor = network.refine(network.rescaled(patches, value_range)) / value_range
        return pixels

    return Parts(look, refine)


def best(scores: Tensor, k: int) -> Tensor:
    """Numbers of the `k` patches of (1, 1, H/4, W/4) with the highest scores, row by row; the earlier ones win ties."""
    order = scores.flatten().sort(descending=True, stable=True).indices
    return order[:k].sort().values


def crops(features: Tensor, patches: Tensor) -> Tensor:
    """(1, channels, H, W) -> (K, channels, 6, 6): the patches of these numbers, with a border that is zero beyond the image."""
    across = features.shape[-1] // PATCH
    return _windows(features)[0, :, patches // across, patches % across].transpose(0, 1)


def paste(coarse: Tensor, pixels: Tensor, patches: Tensor) -> Tensor:
    """The image (1, C, sH, sW) with `pixels` (K, C, 4s, 4s) at the places of the patches of these numbers."""
    side = pixels.shape[-1]
    tiles = F.unfold(coarse, side, stride=side).clone()  # (1, C 4s 4s, patches)
    tiles[0, :, patches] = pixels.flatten(1).T
    return F.fold(tiles, coarse.shape[-2:], side, stride=side)


def _windows(features: Tensor) -> Tensor:
    """(N, channels, H, W) -> (N, channels, H/4, W/4, 6, 6): every patch with its border, a view."""
    side = PATCH + 2 * PADDING
    return F.pad(features, (PADDING,) * 4).unfold(2, side, PATCH).unfold(3, side, PATCH)
