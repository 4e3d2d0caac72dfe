"""MGA: a base network for the whole image, a mask that scores its patches, and a refine network for those that need it.

    coarse, features, scores = network.look(x)
    patches = crops(features, best(scores, k))
    pixels = network.refine(patches)                # goes where the patches come from

Source: Hu et al., Restore Globally, Refine Locally: A Mask-Guided Scheme to Accelerate Super-Resolution Networks, ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, State, count, scale_of
from sr_deploy.architectures.blocks import (
    Foldable,
    Network,
    Options,
    Replacement,
    conv1,
    conv3,
    conv_of,
    scale_output,
)
from sr_deploy.architectures.pan import PAN, SCPA, PANConfig, PANTail, enlarged
from sr_deploy.architectures.rfdn import RFDN, RFDNConfig, rfdb

PATCH = 4
"""Side of a patch in LR pixels."""

PADDING = 1
"""LR pixels around a patch that the refine network sees too."""

SHIFT = 4.0
"""Features of PAN are seldom below -SHIFT."""


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


def _read_rfdn_config(state: State) -> MGAConfig:
    channels, colors = state["base.fea_conv.weight"].shape[:2]
    return MGAConfig(
        scale=scale_of(state["base.upsampler.0.weight"].shape[0], colors, key="base.upsampler.0.weight"),
        colors=colors,
        channels=channels,
        blocks=count(state, "base.B{}.", first=1),
        refine_blocks=count(state, "refine.B{}.", first=1),
    )


def _read_pan_config(state: State) -> MGAConfig:
    channels, colors = state["base.conv_first.weight"].shape[:2]
    refine_blocks = count(state, "refine.SCPA_trunk.{}.")
    return MGAConfig(
        scale=4 if "base.upconv2.weight" in state else 2,
        colors=colors,
        channels=channels,
        blocks=count(state, "base.SCPA_trunk.{}.") + refine_blocks,
        refine_blocks=refine_blocks,
    )


def _of_rfdn(state: State, config: MGAConfig) -> State:  # noqa: ARG001
    """RFDN's weights as those of the base; the refine network is shorter and takes none."""
    return {f"base.{key}": tensor for key, tensor in state.items()}


def _of_pan(state: State, config: MGAConfig) -> State:
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


_PAPER = "Hu et al., Restore Globally, Refine Locally: A Mask-Guided Scheme to Accelerate Super-Resolution Networks, ECCV 2022"
_MASK_KEYS = ("mask.spa_mask_1.0.weight", "mask.spa_mask_1.2.weight", "mask.conv_kernel.weight")

RFDN_MGA = Architecture(
    name="rfdn_mga",
    title="RFDN-MGA",
    paper=_PAPER,
    signature=Signature(
        has_all=("base.B1.c1_d.weight", "refine.B1.c1_d.weight", "refine.conv2.weight", *_MASK_KEYS),
        shapes={"base.fea_conv.weight": (None, None, 3, 3), "base.upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=MGAConfig(scale=4, colors=3),
    read_config=_read_rfdn_config,
    build=RFDNMGA,
    of_plain=_of_rfdn,
    value_range=1.0,
    min_size=PATCH,
    size_multiple=PATCH,
    mask_guided=True,
)

PAN_MGA = Architecture(
    name="pan_mga",
    title="PAN-MGA",
    paper=_PAPER,
    signature=Signature(
        has_all=("base.SCPA_trunk.0.conv1_a.weight", "refine.SCPA_trunk.0.conv1_a.weight", "refine.conv2.weight", *_MASK_KEYS),
        shapes={"base.conv_first.weight": (None, None, 3, 3), "base.upconv1.weight": (None, None, 3, 3)},
    ),
    default=MGAConfig(scale=4, colors=3, channels=40, blocks=16, refine_blocks=4),
    read_config=_read_pan_config,
    build=PANMGA,
    of_plain=_of_pan,
    value_range=1.0,
    variants=lambda config: (config,) if config.scale == 4 else (replace(config, scale=2), replace(config, scale=3)),
    min_size=PATCH,
    size_multiple=PATCH,
    mask_guided=True,
)


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
