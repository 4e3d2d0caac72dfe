"""Compact against another implementation of it, and beside ECBSR, which is the same function under other names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr_deploy.architectures import REGISTRY, detect, load_checkpoint
from sr_deploy.architectures.compact import Activation, Compact, CompactConfig
from sr_deploy.architectures.ecbsr import ECBSR, ECBSRConfig
from sr_deploy.errors import MissingDependencyError, UnknownArchitectureError
from sr_deploy.export.spandrel import import_spandrel

Randomize = Callable[[nn.Module], nn.Module]
ACT_TYPES: dict[Activation, str] = {"prelu": "prelu", "relu": "relu", "lrelu": "leakyrelu"}


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("activation", ACT_TYPES)
def test_it_is_the_network_that_spandrel_has(activation: Activation, scale: int, randomize: Randomize) -> None:
    try:
        import_spandrel()
    except MissingDependencyError:
        pytest.skip("spandrel is not installed")
    from spandrel.architectures.Compact import Compact as Theirs

    theirs = randomize(Theirs(num_feat=5, num_conv=2, upscale=scale, act_type=ACT_TYPES[activation]))
    ours = Compact(CompactConfig(scale=scale, colors=3, channels=5, blocks=2, activation=activation)).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 3, 9, 13, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of Compact, with those that merged ECBSR has for the same tensors."""

    def name(key: str) -> str:
        _, number, what = key.split(".")
        return f"backbone.{int(number) // 2}.{int(number) % 2}.{what}"

    return {name(key): tensor for key, tensor in state.items()}


def test_ecbsr_has_the_same_tensors_under_other_names(randomize: Randomize) -> None:
    network = randomize(Compact(CompactConfig(scale=2, colors=3, channels=4, blocks=3)))
    state = dict(network.state_dict())
    twin = ECBSR(ECBSRConfig(scale=2, colors=3, channels=4, blocks=3)).double().eval()
    twin.load_state_dict(renamed(state), strict=True)
    assert detect(state, REGISTRY, where="here").name == "compact"
    assert detect(renamed(state), REGISTRY, where="here").name == "ecbsr"
    x = torch.rand(1, 3, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(network(x), twin(x))


def test_sizes_are_read_from_published_weights(shared: Path) -> None:
    def config(file: str) -> object:
        return load_checkpoint(shared / "checkpoints" / file).readings[0].config

    assert config("realesr-animevideov3.pth") == CompactConfig(scale=4, colors=3, channels=64, blocks=16)
    assert config("realesr-animevideov3.safetensors") == config("realesr-animevideov3.pth")
    assert config("sudo_UltraCompact_2x_1.121.175_G.pth") == CompactConfig(scale=2, colors=3, channels=64, blocks=8)


@pytest.mark.parametrize("number", [1, 4])
def test_a_conv_that_is_missing_is_refused(number: int) -> None:
    state = dict(Compact(CompactConfig(scale=2, colors=3, channels=4, blocks=3)).state_dict())
    with pytest.raises(UnknownArchitectureError, match="nearest is compact"):
        detect({key: tensor for key, tensor in state.items() if f"body.{number}." not in key}, REGISTRY, where="here")
