"""The end of ETDS and its relatives, a conv between two ReLUs that clips an image to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of, identity_kernel
from sr_deploy.architectures.architecture import Config, scale_of
from sr_deploy.architectures.blocks import scale_output

FOLD = "the last conv gives the image and a clamp clips it"


def clipped_rows(config: Config) -> int:
    """Outputs of the last conv: what the pixel shuffle takes, and one more at scale 3, so that 28 are a multiple of 4."""
    return config.colors * config.scale**2 + (config.scale == 3)


def clipped_scale(rows: int, colors: int, *, key: str) -> int:
    """The scale whose last conv has that many outputs.

    Raises: ValueError when there is none.
    """
    return 3 if rows == 9 * colors + 1 else scale_of(rows, colors, key=key)


class ClipConv(nn.Conv2d):
    """relu(conv1(relu(x))) without the channel that the pixel shuffle does not take.

    With the weights that are published conv1(x) = 1 - x, and what it sees is 1 - image.
    Source: Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution,
    CVPR 2023.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(clipped_rows(config), clipped_rows(config), 1)
        self.kept = config.colors * config.scale**2

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(torch.relu(x)))[:, : self.kept]


def fold_clip(last: nn.Module, clip: nn.Module) -> tuple[nn.Conv2d, nn.Hardtanh] | None:
    """A conv for the image and the clamp behind it, which equal the last conv and its clip; None where clip is not 1 - x."""
    assert isinstance(last, nn.Conv2d)
    if not isinstance(clip, ClipConv) or last.bias is None or clip.bias is None:
        return None
    if not torch.equal(clip.weight, -identity_kernel(clip.weight)) or not torch.equal(clip.bias, torch.ones_like(clip.bias)):
        return None
    conv = conv_of(-last.weight[: clip.kept], 1 - last.bias[: clip.kept], padding=1)
    return conv, nn.Hardtanh(0.0, 1.0)


def scale_clipped(last: nn.Module, clip: nn.Module, factor: float) -> None:
    """Make the end of a network compute factor times what it does, folded or not."""
    if isinstance(clip, nn.Hardtanh):
        scale_output(last, factor)
        clip.max_val *= factor
    else:
        scale_output(clip, factor)
