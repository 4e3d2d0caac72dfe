"""SPANF: SPAN without its first conv and mean, on top of a small upscaling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.architectures.algebra import conv_of
from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, scale_input, scale_output
from sr_deploy.architectures.spab import SPAB, merged_conv3xc


@dataclass(frozen=True)
class SPANFConfig(Config):
    """`joined` is the number of channels before the last conv."""

    channels: int = 32
    joined: int = 32
    blocks: int = 5


class SPANF(Network):
    """`joint` and `last` are the names of its last two convs.

    Source: Ren et al., The Tenth NTIRE 2025 Efficient Super-Resolution Challenge Report, CVPR Workshops 2025.
    """

    joint, last = "conv_cat", "conv_2"

    def __init__(self, config: SPANFConfig) -> None:
        super().__init__()
        self.colors = colors = config.colors
        channels = config.channels
        rows = colors * config.scale**2
        self.block_names = [f"block_{number}" for number in range(1, config.blocks + 1)]
        self.conv_near: nn.Module = nn.Conv2d(colors, rows, 3, padding=1, groups=colors, bias=False)
        for name in self.block_names:
            self.add_module(name, SPAB(colors if name == "block_1" else channels, channels))
        self.add_module(self.joint, conv1(2 * channels + rows, config.joined))
        self.add_module(self.last, merged_conv3xc(config.joined, rows))
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y, outputs = x, []
        for name in self.block_names:
            y, _ = self.get_submodule(name)(y)
            outputs.append(y)
        joined = self.get_submodule(self.joint)(torch.cat([self.conv_near(x), y, outputs[0]], 1))
        out: Tensor = self.shuffle(self.get_submodule(self.last)(joined))
        return out

    def fold_ends(self) -> tuple[str, ...]:
        near, joint = self.conv_near, self.get_submodule(self.joint)
        assert isinstance(joint, nn.Conv2d)
        if not isinstance(near, nn.Conv2d) or near.weight.count_nonzero() > near.weight[:, :, 1, 1].count_nonzero():
            return ()
        # What the 1x1 does to a row, it does to the color that the row repeats.
        rows = near.out_channels
        of_rows = joint.weight[:, :rows] * near.weight[:, 0, 1, 1][None, :, None, None]
        of_colors = torch.stack([part.sum(1) for part in of_rows.chunk(self.colors, 1)], 1)
        self.add_module(self.joint, conv_of(torch.cat([of_colors, joint.weight[:, rows:]], 1), joint.bias))
        self.conv_near = nn.Identity()
        return ("nearest-neighbor upscaling folded into the 1x1 behind it",)

    def fold_value_range(self, value_range: float) -> None:
        near = self.conv_near
        if isinstance(near, nn.Conv2d):
            scale_input(near, value_range)
        else:
            joint = self.get_parameter(f"{self.joint}.weight")
            joint[:, : self.colors].mul_(value_range)
        scale_input(self.get_submodule("block_1.c1_r.eval_conv"), value_range)
        scale_output(self.get_submodule(f"{self.last}.eval_conv"), 1 / value_range)


def read_spanf_config(state: StateDict, *, joint: str, last: str) -> SPANFConfig:
    """The config of a state dict whose last two convs have these names."""
    channels, colors = state["block_1.c1_r.eval_conv.weight"].shape[:2]
    key = f"{last}.eval_conv.weight"
    return SPANFConfig(
        scale=scale_of(state[key].shape[0], colors, key=key),
        colors=colors,
        channels=channels,
        joined=state[f"{joint}.weight"].shape[0],
        blocks=count(state, "block_{}.", first=1),
    )


ARCHITECTURE = Architecture(
    name="spanf",
    title="SPANF",
    paper="Ren et al., The Tenth NTIRE 2025 Efficient Super-Resolution Challenge Report, CVPR Workshops 2025",
    signature=Signature(
        has_all=("block_1.c1_r.eval_conv.weight", "conv_near.weight", "conv_cat.weight", "conv_2.eval_conv.weight"),
        shapes={"conv_near.weight": (None, 1, 3, 3)},
    ),
    default=SPANFConfig(scale=4, colors=3),
    read_config=lambda state: read_spanf_config(state, joint="conv_cat", last="conv_2"),
    build=SPANF,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 1,
)
