"""Blocks that run merged are the same function with the same gradients; what ships is what was trained."""

from __future__ import annotations

import copy

import pytest
import torch

from sr_deploy.architectures import REGISTRY, Network
from sr_deploy.architectures.ecbsr import ARCHITECTURE as ECBSR
from sr_deploy.architectures.ecbsr import ECBSRConfig
from sr_deploy.architectures.plainusr import ARCHITECTURE as PLAINUSR
from sr_deploy.architectures.plainusr import PlainUSRConfig
from sr_deploy.architectures.reprfn import ARCHITECTURE as REPRFN
from sr_deploy.architectures.reprfn import RepRFNConfig
from sr_deploy.architectures.reprlfn import ARCHITECTURE as REPRLFN
from sr_deploy.architectures.reprlfn import RepRLFNConfig
from sr_deploy.architectures.rt4ksr import ARCHITECTURE as RT4KSR
from sr_deploy.architectures.rt4ksr import RT4KSRConfig
from sr_deploy.architectures.rvsr import ARCHITECTURE as RVSR
from sr_deploy.architectures.rvsr import RVSRConfig
from sr_deploy.architectures.span import ARCHITECTURE as SPAN
from sr_deploy.architectures.span import SPANConfig
from sr_deploy.errors import CheckpointError
from sr_deploy.training.merging import merged_state, run_merged

FORMS = [
    (ECBSR, ECBSRConfig(scale=2, colors=3, channels=6, blocks=1, merged=False)),
    (ECBSR, ECBSRConfig(scale=3, colors=1, channels=6, blocks=2, merged=False, identity=True)),
    (REPRFN, RepRFNConfig(scale=2, colors=3, channels=6, esa=4, blocks=1, merged=False)),
    (REPRLFN, RepRLFNConfig(scale=2, colors=3, channels=6, esa=4, blocks=1, merged=False)),
    (SPAN, SPANConfig(scale=2, colors=3, channels=6, joined=6, blocks=2, merged=False, img_range=1.0)),
    (RVSR, RVSRConfig(scale=2, colors=3, channels=4, attention=2, blocks=1, merged=False)),
    (RT4KSR, RT4KSRConfig(scale=2, colors=3, channels=4, blocks=1, unused=False, merged=False)),
    (PLAINUSR, PlainUSRConfig(scale=2, colors=3, channels=4, middle=3, inner=2, attention=2, merged=False)),
]
IDS = ["ecbsr", "identity", "reprfn", "reprlfn", "span", "rvsr", "rt4ksr", "plainusr"]


def randomized(network: Network) -> Network:
    """Weights and biases of all branches far from zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


@pytest.mark.parametrize(("architecture", "config"), FORMS, ids=IDS)
def test_running_merged_changes_neither_function_nor_gradients(architecture, config) -> None:  # type: ignore[no-untyped-def]
    network = randomized(architecture.build(config)).double()
    merged = copy.deepcopy(network)
    run_merged(merged)
    x = torch.rand(2, config.colors, 18, 20, dtype=torch.float64)
    outputs = [net(x) for net in (network, merged)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)
    for output in outputs:
        output.square().mean().backward()
    for (name, one), other in zip(network.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-10, msg=name)
    assert merged.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(("architecture", "config"), FORMS, ids=IDS)
def test_the_merged_state_is_a_checkpoint_of_the_plain_form(architecture, config) -> None:  # type: ignore[no-untyped-def]
    network = randomized(architecture.build(config))
    state, difference = merged_state(network, config, architecture, torch.rand(1, config.colors, 20, 20))
    assert 0 < difference < 1e-4
    assert architecture.signature.matches(state)
    assert architecture.read_config(state).merged


@pytest.mark.parametrize("architecture", REGISTRY, ids=lambda entry: entry.name)
def test_other_networks_ship_as_they_are(architecture) -> None:  # type: ignore[no-untyped-def]
    config = architecture.default
    network = architecture.build(config)
    state, difference = merged_state(network, config, architecture, torch.rand(1, config.colors, 16, 16))
    assert difference == 0
    assert state.keys() == network.state_dict().keys()


def test_weights_that_do_not_merge_are_refused() -> None:
    architecture, config = FORMS[0]
    network = architecture.build(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("conv1x1_3x3.k1"):
                parameter.mul_(float("inf"))
    with pytest.raises(CheckpointError, match="merged weights differ from the trained ones by nan"):
        merged_state(network, config, architecture, torch.rand(1, 3, 8, 8))
