"""RFDN-MGA: the mask-guided scheme on RFDN, whose refine network is a shorter RFDN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Signature, StateDict, count, scale_of
from sr_deploy.architectures.blocks import Network, conv1, conv3, scale_output
from sr_deploy.architectures.mga import MASK_KEYS, PAPER, PATCH, MaskGuided, MaskPredictor, MGAConfig
from sr_deploy.architectures.rfdn import RFDN, RFDNConfig, rfdb


class RFDNRefine(Network):
    """A shorter RFDN whose upsampler takes the middle of a patch: (K, channels, 6, 6) -> (K, C, 4s, 4s)."""

    def __init__(self, config: RFDNConfig) -> None:
        super().__init__()
        channels = config.channels
        self.block_names = [f"B{number}" for number in range(1, config.blocks + 1)]
        for name in self.block_names:
            self.add_module(name, rfdb(config, pooled=False))
        self.c = nn.Sequential(conv1(config.blocks * channels, channels), nn.LeakyReLU(0.05))
        self.LR_conv = conv3(channels, channels)
        self.conv1 = conv3(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.upsampler = nn.Sequential(conv3(channels, config.colors * config.scale**2), nn.PixelShuffle(config.scale))

    def forward(self, patches: Tensor) -> Tensor:
        outputs = [patches]
        for name in self.block_names:
            outputs.append(self.get_submodule(name)(outputs[-1]))
        z = self.LR_conv(self.c(torch.cat(outputs[1:], 1))) + patches
        y: Tensor = self.upsampler(self.conv2(F.leaky_relu(self.conv1(z), 0.1)))
        return y

    def fold_value_range(self, value_range: float) -> None:
        scale_output(self.upsampler[0], 1 / value_range)


class RFDNMGA(MaskGuided):
    """RFDN-MGA as published: its attention has no max pooling."""

    def __init__(self, config: MGAConfig) -> None:
        super().__init__()
        width = config.channels
        base, refine = (
            RFDNConfig(config.scale, config.colors, width, distilled=width // 2, esa=width // 4, blocks=blocks)
            for blocks in (config.blocks, config.refine_blocks)
        )
        self.base = RFDN(base, pooled=False)
        self.mask = MaskPredictor(config.channels)
        self.refine = RFDNRefine(refine)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(self.base, RFDN)
        features = self.base.features(x)
        return self.base.upsampler(features), features, self.mask(features)

    def features(self, x: Tensor) -> Tensor:
        assert isinstance(self.base, RFDN)
        return self.base.features(x)

    def score(self, features: Tensor) -> Tensor:
        scores: Tensor = self.mask(features)
        return scores


def _read_config(state: StateDict) -> MGAConfig:
    channels, colors = state["base.fea_conv.weight"].shape[:2]
    return MGAConfig(
        scale=scale_of(state["base.upsampler.0.weight"].shape[0], colors, key="base.upsampler.0.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "base.B{}.", first=1),
        refine_blocks=count(state, "refine.B{}.", first=1),
    )


def _of_plain(state: StateDict, config: MGAConfig) -> StateDict:  # noqa: ARG001
    """RFDN's weights as those of the base; the refine network is shorter and takes none."""
    return {f"base.{key}": tensor for key, tensor in state.items()}


ARCHITECTURE = Architecture(
    name="rfdn_mga",
    title="RFDN-MGA",
    paper=PAPER,
    signature=Signature(
        has_all=("base.B1.c1_d.weight", "refine.B1.c1_d.weight", "refine.conv2.weight", *MASK_KEYS),
        shapes={"base.fea_conv.weight": (None, None, 3, 3), "base.upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=MGAConfig(scale=4, colors=3),
    read_config=_read_config,
    build=RFDNMGA,
    of_plain=_of_plain,
    value_range=1.0,
    min_size=PATCH,
    size_multiple=PATCH,
    mask_guided=True,
)
