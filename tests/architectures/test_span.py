"""SPAN against another implementation of it, and the networks made from it against their equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures import REGISTRY, Network, detect, load_checkpoint, reference, reparameterize
from sr_deploy.architectures.dscf import ARCHITECTURE as DSCF
from sr_deploy.architectures.pds import ARCHITECTURE as PDS
from sr_deploy.architectures.span import ARCHITECTURE as SPAN
from sr_deploy.architectures.span import SPANConfig
from sr_deploy.architectures.spanf import ARCHITECTURE as SPANF
from sr_deploy.architectures.spanf import SPANFConfig
from sr_deploy.errors import MissingDependencyError
from sr_deploy.export.spandrel import import_spandrel

Randomize = Callable[[nn.Module], Network]
State = dict[str, Tensor]

MEAN = torch.tensor([0.4488, 0.4371, 0.4040], dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize("norm", [True, False])
def test_it_is_the_network_that_spandrel_has(norm: bool, randomize: Randomize) -> None:
    try:
        import_spandrel()
    except MissingDependencyError:
        pytest.skip("spandrel is not installed")
    from spandrel.architectures import SPAN as THEIRS

    theirs = randomize(THEIRS.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=5, upscale=3, norm=norm))
    theirs.mean = MEAN
    config = SPANConfig(scale=3, colors=3, channels=5, joined=5, merged=False)
    ours = SPAN.build(config if norm else replace(config, mean="none", img_range=1.0, no_norm=True)).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 3, 9, 13, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


def test_what_a_training_form_says_of_its_merge_is_ignored(shared: Path) -> None:
    """The file's `eval_conv` holds 0.9 of the merge."""
    loaded = load_checkpoint(shared / "next" / "golden" / "span_train_x4.pth")
    network = loaded.network(loaded.readings[0])
    x = torch.rand(1, 3, 12, 10)
    with torch.inference_mode():
        expected = network(x)
        for name, parameter in network.named_parameters():
            if ".eval_conv." in name:
                parameter.fill_(float("nan"))
        assert torch.equal(network(x), expected)
        torch.testing.assert_close(reparameterize(network, 1.0).module(x), expected, rtol=0, atol=1e-5)


def test_the_readings_of_span(tmp_path: Path) -> None:
    def readings(config: SPANConfig) -> list[tuple[str, float]]:
        torch.save(SPAN.build(config).state_dict(), tmp_path / "net.pth")
        loaded = load_checkpoint(tmp_path / "net.pth")
        assert (loaded.architecture, loaded.readings[0].value_range) == (SPAN, 1.0)
        return [(reading.config.mean, reading.config.img_range) for reading in loaded.readings]  # type: ignore[attr-defined]

    small = SPANConfig(scale=2, colors=3, channels=4, joined=3, blocks=3)
    assert readings(small) == [("div2k", 255.0), ("none", 1.0), ("div2k", 1.0), ("half", 1.0)]
    assert readings(replace(small, mean="stored")) == [("stored", 255.0), ("stored", 1.0)]
    assert readings(replace(small, mean="none", img_range=1.0, no_norm=True)) == [("none", 1.0)]
    assert readings(replace(small, colors=1, mean="none", img_range=1.0)) == [("none", 1.0)]


def test_a_mean_in_the_weights_is_subtracted(randomize: Randomize) -> None:
    config = SPANConfig(scale=2, colors=3, channels=4, joined=4, blocks=2)
    told = SPAN.build(replace(config, mean="stored")).double()
    plain = randomize(SPAN.build(config))
    told.load_state_dict({**plain.state_dict(), "mean": MEAN[None]}, strict=True)
    x = torch.rand(1, 3, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(told(x), plain(x))


@pytest.mark.parametrize(("architecture", "scale", "colors"), [(SPANF, 2, 3), (PDS, 3, 3), (SPANF, 4, 1)])
@pytest.mark.parametrize("value_range", [1.0, 255.0])
def test_nearest_neighbor_upscaling_folds(architecture, scale, colors, value_range, randomize: Randomize) -> None:  # type: ignore[no-untyped-def]
    network = randomize(architecture.build(SPANFConfig(scale=scale, colors=colors, channels=4, joined=5, blocks=2)))
    with torch.no_grad():
        near = network.get_parameter("conv_near.weight")
        center = near[:, :, 1, 1].clone()
        near.zero_()[:, :, 1, 1] = center
    folded = reparameterize(network, value_range)
    assert folded.folds[0] == "nearest-neighbor upscaling folded into the 1x1 behind it"
    assert not any("conv_near" in key for key in folded.module.state_dict())
    x = torch.rand(1, colors, 6, 5, dtype=torch.float64)
    with torch.inference_mode():
        expected = reference(network, value_range)(x)
        torch.testing.assert_close(folded.module(x), expected, rtol=0, atol=1e-12 * max(1, float(expected.abs().max())))


def test_published_weights_upscale_by_nearest_neighbor(shared: Path) -> None:
    loaded = load_checkpoint(shared / "next" / "checkpoints" / "team24_spanf.pth")
    folds = reparameterize(loaded.network(loaded.readings[0]), 1.0).folds
    assert folds == ("nearest-neighbor upscaling folded into the 1x1 behind it",)


def conv(state: State, name: str, x: Tensor) -> Tensor:
    """The conv of that name, with or without a bias, padded to keep the size."""
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, groups=groups)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def block(state: State, number: int, x: Tensor, *, attends: bool = True) -> tuple[Tensor, Tensor]:
    """A block of SPAN and its features after the first conv."""
    h = silu(conv(state, f"block_{number}.c1_r.eval_conv", x))
    o = conv(state, f"block_{number}.c3_r.eval_conv", silu(conv(state, f"block_{number}.c2_r.eval_conv", h)))
    return (o + x) * (torch.sigmoid(o) - 0.5) if attends else o, h


def eval_convs(names: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.eval_conv.{what}": shape
        for name in names.split()
        for what, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,)))
    }


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(4)
    return {
        key: torch.randn(shape, generator=generator, dtype=torch.float64) / Tensor(shape[1:]).prod().sqrt().clamp(min=2)
        for key, shape in shapes.items()
    }


def test_pds_is_what_its_equations_say() -> None:
    shapes = {"conv_near.weight": (48, 1, 3, 3), "conv_cat_1.weight": (20, 112, 1, 1), "conv_cat_1.bias": (20,)}
    shapes |= eval_convs("block_1.c1_r", 3, 32) | eval_convs("block_1.c2_r block_1.c3_r", 32, 32)
    for number in range(2, 6):
        shapes |= eval_convs(f"block_{number}.c1_r block_{number}.c2_r block_{number}.c3_r", 32, 32)
    state = random_state(shapes | eval_convs("conv_2_1", 20, 48))
    assert sum(tensor.numel() for tensor in state.values()) == 141_748
    x = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    first, _ = block(state, 1, x, attends=False)
    y = first
    for number in range(2, 6):
        y, _ = block(state, number, y)
    joined = conv(state, "conv_cat_1", torch.cat([conv(state, "conv_near", x), y, first], 1))
    assert_equal(PDS, state, x, F.pixel_shuffle(conv(state, "conv_2_1.eval_conv", joined), 4))


def test_dscf_is_what_its_equations_say() -> None:
    shapes = {"conv_fused.weight": (26, 3, 5, 5), "conv_fused.bias": (26,), "conv2_fused.weight": (26, 26, 3, 3)}
    shapes |= {"conv_cat_other.weight": (26, 78, 1, 1), "conv_cat_other.bias": (26,)}
    shapes |= {"upsampler.0.weight": (48, 26, 3, 3), "upsampler.0.bias": (48,)}
    shapes |= eval_convs("conv_1", 3, 26) | eval_convs("block_1.c2_r block_1.c3_r", 26, 26)
    for number in range(2, 7):
        shapes |= eval_convs(f"block_{number}.c1_r block_{number}.c2_r block_{number}.c3_r", 26, 26)
    state = random_state(shapes)
    assert sum(tensor.numel() for tensor in state.values()) == 125_992
    x = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    z = (x - MEAN) * 255
    features = conv(state, "conv_1.eval_conv", z)
    h = silu(conv(state, "block_1.c2_r.eval_conv", silu(conv(state, "conv_fused", z))))
    o = conv(state, "block_1.c3_r.eval_conv", h)
    first = y = (o + features) * (torch.sigmoid(o) - 0.5)
    for number in range(2, 7):
        y, inner = block(state, number, y)
    joined = conv(state, "conv_cat_other", torch.cat([features, first, inner], 1)) + conv(state, "conv2_fused", y)
    assert_equal(DSCF, state, x, F.pixel_shuffle(conv(state, "upsampler.0", joined), 4))


def assert_equal(architecture, state: State, x: Tensor, expected: Tensor) -> None:  # type: ignore[no-untyped-def]
    assert detect(state, REGISTRY, where="here") is architecture
    assert architecture.read_config(state) == architecture.default
    network = architecture.build(architecture.default).double().eval()
    network.load_state_dict(state, strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
