"""PAN-MGA: the mask-guided scheme on PAN, whose last blocks are the refine network."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Signature, StateDict, count
from sr_deploy.architectures.blocks import conv3, enlarged, scale_output
from sr_deploy.architectures.mga import MASK_KEYS, PADDING, PAPER, PATCH, MaskGuided, MaskPredictor, MGAConfig
from sr_deploy.architectures.pan import PAN, SCPA, PANConfig, PANTail

SHIFT = 4.0
"""Features of PAN are seldom below -SHIFT."""


class PANRefine(PANTail):
    """Blocks of PAN on a patch, and an upsampler for its middle: (K, channels + C s s, 6, 6) -> (K, C, 4s, 4s).

    The last C s s channels hold the image upscaled by bilinear interpolation, each LR pixel with the pixels it stands for.
    """

    def __init__(self, config: PANConfig) -> None:
        super().__init__(config)
        self.scale = config.scale
        self.channels = config.channels
        self.SCPA_trunk = nn.Sequential(*(SCPA(config.channels, config.split) for _ in range(config.blocks)))
        self.conv1 = conv3(config.channels, config.channels)
        self.conv2 = nn.Conv2d(config.channels, config.channels, 3)

    def forward(self, patches: Tensor) -> Tensor:
        features, enlarged = patches[:, : self.channels], patches[:, self.channels :, PADDING:-PADDING, PADDING:-PADDING]
        z = self.conv2(F.leaky_relu(self.conv1(self.SCPA_trunk(features)), 0.1))
        return self.upsample(z) + F.pixel_shuffle(enlarged, self.scale)

    def fold_value_range(self, value_range: float) -> None:
        scale_output(self.conv_last, 1 / value_range)


class PANMGA(MaskGuided):
    """PAN-MGA, the paper's main case: PAN's blocks are split into those of the base and those of the refine network."""

    def __init__(self, config: MGAConfig) -> None:
        super().__init__()
        self.scale = config.scale
        base, refine = (
            PANConfig(config.scale, config.colors, config.channels, config.channels // 2, blocks=blocks)
            for blocks in (config.blocks - config.refine_blocks, config.refine_blocks)
        )
        self.base = PAN(base)
        self.mask = MaskPredictor(config.channels)
        self.refine = PANRefine(refine)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(self.base, PAN)
        features, large = self.base.features(x), enlarged(x, self.scale)
        return self.base.upsample(features) + large, self._joined(features, large), self.mask(features)

    def features(self, x: Tensor) -> Tensor:
        assert isinstance(self.base, PAN)
        return self._joined(self.base.features(x), enlarged(x, self.scale))

    def _joined(self, features: Tensor, large: Tensor) -> Tensor:
        return torch.cat([features, F.pixel_unshuffle(large, self.scale)], 1)

    def score(self, features: Tensor) -> Tensor:
        scores: Tensor = self.mask(features[:, : self.refine.channels])
        return scores

    def rescaled(self, features: Tensor, factor: float) -> Tensor:
        channels = self.refine.channels
        return torch.cat([features[:, :channels], features[:, channels:] * factor], 1)


def _read_config(state: StateDict) -> MGAConfig:
    channels, colors = state["base.conv_first.weight"].shape[:2]
    refine_blocks = count(state, "refine.SCPA_trunk.{}.")
    return MGAConfig(
        scale=4 if "base.upconv2.weight" in state else 2,
        colors=colors,
        channels=channels,
        blocks=count(state, "base.SCPA_trunk.{}.") + refine_blocks,
        refine_blocks=refine_blocks,
    )


def _of_plain(state: StateDict, config: MGAConfig) -> StateDict:
    """PAN's weights: its last blocks go to the refine network, its upsampler to both.

    What follows PAN's last block, `trunk_conv`, is the refine network's `conv2`. The convs that PAN has no weights for begin by
    passing on what they get: the base's `trunk_conv`, and `conv1` as long as that is above -SHIFT.
    """
    if "trunk_conv.weight" not in state:
        return {}
    blocks, taken = config.blocks - config.refine_blocks, dict[str, Tensor]()
    for key, tensor in state.items():
        name, number, rest = (*key.split(".", 2), "")[:3]
        if name == "SCPA_trunk" and int(number) >= blocks:
            taken[f"refine.{name}.{int(number) - blocks}.{rest}"] = tensor
        elif name == "trunk_conv":
            taken[f"refine.conv2.{number}"] = tensor
        else:
            taken[f"base.{key}"] = tensor
            if name not in ("conv_first", "SCPA_trunk"):
                taken[f"refine.{key}"] = tensor
    weight = taken["refine.conv2.weight"]
    identity, shift = nn.init.dirac_(torch.empty_like(weight)), torch.full_like(weight[0, :, 0, 0], SHIFT)
    taken |= {"base.trunk_conv.weight": identity, "base.trunk_conv.bias": torch.zeros_like(shift)}
    taken |= {"refine.conv1.weight": identity, "refine.conv1.bias": shift}
    taken["refine.conv2.bias"] = taken["refine.conv2.bias"] - weight.sum((2, 3)) @ shift
    return taken


ARCHITECTURE = Architecture(
    name="pan_mga",
    title="PAN-MGA",
    paper=PAPER,
    signature=Signature(
        has_all=("base.SCPA_trunk.0.conv1_a.weight", "refine.SCPA_trunk.0.conv1_a.weight", "refine.conv2.weight", *MASK_KEYS),
        shapes={"base.conv_first.weight": (None, None, 3, 3), "base.upconv1.weight": (None, None, 3, 3)},
    ),
    default=MGAConfig(scale=4, colors=3, channels=40, blocks=16, refine_blocks=4),
    read_config=_read_config,
    build=PANMGA,
    of_plain=_of_plain,
    value_range=1.0,
    variants=lambda config: (config,) if config.scale == 4 else (replace(config, scale=2), replace(config, scale=3)),
    min_size=PATCH,
    size_multiple=PATCH,
    mask_guided=True,
)
