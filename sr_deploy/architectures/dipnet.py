"""DIPNet: RLFN, narrower inside, without biases outside of its attention."""

from __future__ import annotations

from sr_deploy.architectures.architecture import Architecture, Signature
from sr_deploy.architectures.rlfn import RLFNConfig, read_config, rlfn

ARCHITECTURE = Architecture(
    name="dipnet",
    title="DIPNet",
    paper="Yu et al., DIPNet: Efficiency Distillation and Iterative Pruning for Image Super-Resolution, CVPR Workshops 2023",
    signature=Signature(
        has_all=("block_1.c1_r.weight", "block_1.c5.weight", "block_1.esa.conv3.weight", "conv_2.weight"),
        has_none=("conv_1.bias", "block_1.esa.conv_max.weight"),
        shapes={"conv_1.weight": (None, None, 3, 3), "upsampler.0.weight": (None, None, 3, 3)},
    ),
    default=RLFNConfig(scale=4, colors=3, channels=44, inner=38, esa=16, blocks=4),
    read_config=read_config,
    build=lambda config: rlfn(config, bias=False),
    value_range=1.0,
    min_size=15,
)
