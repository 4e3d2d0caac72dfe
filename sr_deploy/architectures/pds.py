"""PDS: SPANF with fewer channels before its last conv."""

from __future__ import annotations

from sr_deploy.architectures.architecture import Architecture, Signature
from sr_deploy.architectures.spanf import SPANF, SPANFConfig, read_spanf_config


class PDS(SPANF):
    """Source: Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026."""

    joint, last = "conv_cat_1", "conv_2_1"


ARCHITECTURE = Architecture(
    name="pds",
    title="PDS",
    paper="Ren et al., The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report, CVPR Workshops 2026",
    signature=Signature(
        has_all=("block_1.c1_r.eval_conv.weight", "conv_near.weight", "conv_cat_1.weight", "conv_2_1.eval_conv.weight"),
        shapes={"conv_near.weight": (None, 1, 3, 3)},
    ),
    default=SPANFConfig(scale=4, colors=3, joined=20),
    read_config=lambda state: read_spanf_config(state, joint="conv_cat_1", last="conv_2_1"),
    build=PDS,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: 3 * config.blocks + 1,
)
