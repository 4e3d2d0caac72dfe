"""ECBSR-ET: a merged ECBSR whose image goes through wider convs, in place of beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sr_deploy.architectures.architecture import Architecture, Config, Signature, StateDict, count
from sr_deploy.architectures.blocks import Network, conv3, scale_input
from sr_deploy.architectures.clip import FOLD, ClipConv, clipped_rows, clipped_scale, fold_clip, scale_clipped
from sr_deploy.architectures.ecbsr import ends_in_1x1


@dataclass(frozen=True)
class ECBSRETConfig(Config):
    """`channels`: four more than the ECBSR that it was made of. `blocks`: convs between the first and the last."""

    channels: int = 20
    blocks: int = 4


class ECBSRET(Network):
    """Source: Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution,
    CVPR 2023.
    """

    def __init__(self, config: ECBSRETConfig) -> None:
        super().__init__()
        channels = config.channels
        inputs = [config.colors, *[channels] * config.blocks]
        hidden = [nn.Sequential(conv3(width, channels), nn.PReLU(channels)) for width in inputs]
        last, clip = nn.Sequential(conv3(channels, clipped_rows(config))), nn.Sequential(ClipConv(config))
        self.backbone = nn.Sequential(*hidden, last, clip)
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(self.backbone(x))
        return y

    def fold_ends(self) -> tuple[str, ...]:
        *_, last, clip = self.backbone
        folded = fold_clip(last.get_submodule("0"), clip.get_submodule("0"))
        if folded is None:
            return ()
        self.backbone[-2], self.backbone[-1] = (nn.Sequential(module) for module in folded)
        return (FOLD,)

    def fold_value_range(self, value_range: float) -> None:
        *_, last, clip = self.backbone
        scale_input(self.backbone.get_submodule("0.0"), value_range)
        scale_clipped(last.get_submodule("0"), clip.get_submodule("0"), 1 / value_range)


def _read_config(state: StateDict) -> ECBSRETConfig:
    channels, colors = state["backbone.0.0.weight"].shape[:2]
    number = count(state, "backbone.{}.")
    key = f"backbone.{number - 1}.0.weight"
    return ECBSRETConfig(
        scale=clipped_scale(state[key].shape[0], colors, key=key), colors=colors, channels=channels, blocks=number - 3
    )


ARCHITECTURE = Architecture(
    name="ecbsr_et",
    title="ECBSR-ET",
    paper="Chao et al., Equivalent Transformation and Dual Stream Network Construction for Mobile Image Super-Resolution, "
    "CVPR 2023",
    signature=Signature(has_all=("backbone.0.0.weight", "backbone.1.0.weight"), rule=ends_in_1x1),
    default=ECBSRETConfig(scale=2, colors=3),
    read_config=_read_config,
    build=ECBSRET,
    value_range=1.0,
    value_ranges=lambda _state: (1.0,),
    halo=lambda config: config.blocks + 2,
)
