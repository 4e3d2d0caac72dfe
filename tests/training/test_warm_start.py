"""Warm starts: the same network, another scale, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.architectures.blocks import enlarged
from sr_deploy.architectures.ecbsr import ARCHITECTURE as ECBSR
from sr_deploy.architectures.ecbsr import ECBSRConfig
from sr_deploy.architectures.mga import MGAConfig
from sr_deploy.architectures.pan import ARCHITECTURE as PAN
from sr_deploy.architectures.pan import PANConfig
from sr_deploy.architectures.pan_mga import ARCHITECTURE as PAN_MGA
from sr_deploy.architectures.rfdn import ARCHITECTURE as RFDN
from sr_deploy.architectures.rfdn import RFDNConfig
from sr_deploy.architectures.rfdn_mga import ARCHITECTURE as RFDN_MGA
from sr_deploy.architectures.rlfn import ARCHITECTURE as RLFN
from sr_deploy.architectures.rlfn import RLFNConfig
from sr_deploy.errors import CheckpointError, UsageError
from sr_deploy.training.warm_start import warm_start

X2 = ECBSRConfig(scale=2, colors=3, channels=8, blocks=1, merged=False)
X4 = ECBSRConfig(scale=4, colors=3, channels=8, blocks=1, merged=False)


def saved(path: Path, network: torch.nn.Module) -> Path:
    torch.save({"params": network.state_dict()}, path)
    return path


def test_the_same_network_takes_everything(tmp_path: Path) -> None:
    before = ECBSR.build(X2)
    network = ECBSR.build(X2)
    start = warm_start(network, X2, ECBSR, saved(tmp_path / "x2.pth", before))
    assert start.fresh == ()
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[key])


def test_another_scale_replaces_the_upsampler_alone(tmp_path: Path) -> None:
    before, network = ECBSR.build(X2), ECBSR.build(X4)
    random = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    start = warm_start(network, X4, ECBSR, saved(tmp_path / "x2.pth", before))
    assert start.fresh and all(key.startswith("backbone.2.") for key in start.fresh)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, random[key] if key in start.fresh else before.state_dict()[key])


def test_pan_grows_a_second_upsampling_stage(tmp_path: Path) -> None:
    small = {"colors": 3, "channels": 8, "split": 4, "width": 4, "blocks": 1}
    before, config = PAN.build(PANConfig(scale=2, **small)), PANConfig(scale=4, **small)
    start = warm_start(PAN.build(config), config, PAN, saved(tmp_path / "x2.pth", before))
    assert {key.split(".")[0] for key in start.fresh} == {"upconv2", "att2", "HRconv2"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ECBSRConfig(scale=4, colors=3, channels=8, blocks=2, merged=False), "blocks 1, expected 2"),
        (ECBSRConfig(scale=4, colors=3, channels=16, blocks=1, merged=False), "channels 8, expected 16"),
        (ECBSRConfig(scale=2, colors=3, channels=8, blocks=1, merged=True), "merged False, expected True"),
    ],
)
def test_other_sizes_are_refused(tmp_path: Path, config: ECBSRConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        warm_start(ECBSR.build(config), config, ECBSR, saved(tmp_path / "x2.pth", ECBSR.build(X2)))


def test_other_networks_and_files_are_refused(tmp_path: Path) -> None:
    config = RLFNConfig(scale=2, colors=3, channels=8, inner=8, esa=4, blocks=1)
    with pytest.raises(UsageError, match="no ecbsr of this form"):
        warm_start(ECBSR.build(X2), X2, ECBSR, saved(tmp_path / "rlfn.pth", RLFN.build(config)))
    with pytest.raises(CheckpointError, match="no such file"):
        warm_start(ECBSR.build(X2), X2, ECBSR, tmp_path / "none.pth")


def test_a_mask_guided_network_shares_the_blocks_of_the_plain_one(tmp_path: Path) -> None:
    plain = PAN.build(PANConfig(scale=2, colors=3, channels=8, split=4, width=24, blocks=3))
    config = MGAConfig(scale=2, colors=3, channels=8, blocks=3, refine_blocks=1)
    network = PAN_MGA.build(config)
    start = warm_start(network, config, PAN_MGA, saved(tmp_path / "pan.pth", plain))
    assert {key.split(".")[0] for key in start.fresh} == {"mask"}
    own, taken = network.state_dict(), plain.state_dict()
    assert torch.equal(own["refine.SCPA_trunk.0.conv1_a.weight"], taken["SCPA_trunk.2.conv1_a.weight"])
    assert torch.equal(own["base.SCPA_trunk.1.conv3.weight"], taken["SCPA_trunk.1.conv3.weight"])
    assert all(torch.equal(own[f"{part}.HRconv1.bias"], taken["HRconv1.bias"]) for part in ("base", "refine"))
    x = torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        first = plain.conv_first(x)
        features = F.pad(first + plain.SCPA_trunk[:2](first), (1,) * 4)
        trunk = F.conv2d(plain.SCPA_trunk[2](features), plain.trunk_conv.weight, plain.trunk_conv.bias)
        torch.testing.assert_close(network.decomposed(x), plain.upsample(trunk) + enlarged(x, 2), atol=1e-5, rtol=0)


def test_rfdns_weights_become_those_of_the_base(tmp_path: Path) -> None:
    plain = RFDN.build(RFDNConfig(scale=2, colors=3, channels=8, distilled=4, esa=2, blocks=2))
    config = MGAConfig(scale=2, colors=3, channels=8, blocks=2, refine_blocks=1)
    network = RFDN_MGA.build(config)
    start = warm_start(network, config, RFDN_MGA, saved(tmp_path / "rfdn.pth", plain))
    assert {key.split(".")[0] for key in start.fresh} == {"mask", "refine"}
    assert all(torch.equal(network.state_dict()[f"base.{key}"], tensor) for key, tensor in plain.state_dict().items())


def test_a_plain_network_of_another_width_is_refused(tmp_path: Path) -> None:
    plain = PAN.build(PANConfig(scale=2, colors=3, channels=16, split=8, width=24, blocks=3))
    config = MGAConfig(scale=2, colors=3, channels=8, blocks=3, refine_blocks=1)
    with pytest.raises(UsageError, match="no pan_mga of this form"):
        warm_start(PAN_MGA.build(config), config, PAN_MGA, saved(tmp_path / "pan.pth", plain))
