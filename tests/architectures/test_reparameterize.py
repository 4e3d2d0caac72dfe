"""Every fold is exact: the same numbers before and after, in float64, borders and odd sizes included."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sr_deploy.architectures import REGISTRY, Architecture, Config, reference, reparameterize
from sr_deploy.architectures.algebra import identity_kernel
from sr_deploy.architectures.blocks import BSConvU, Foldable, Network, SkipConv
from sr_deploy.architectures.clip import FOLD, ClipConv
from sr_deploy.architectures.msrn import MSRN, MeanShift, MSRNConfig, Subtract
from sr_deploy.architectures.rfdn import RFDN, RFDNConfig

Built = tuple[Architecture[Any], Config]
Randomize = Callable[[nn.Module], Network]

EVERY_OPTION = {"dense_bsconv": True, "merge_parallel": True}
RANGE = "value range 255 folded into the first and last conv"


def _assert_exact(
    network: Network, value_range: float, colors: int, size_multiple: int = 1, **options: bool
) -> tuple[str, ...]:
    folded = reparameterize(network, value_range, **options)
    original = reference(network, value_range)
    torch.manual_seed(3)
    for batch, *size in ((1, 15, 15), (2, 17, 23)):
        shape = (batch, colors, *(side - side % size_multiple for side in size))
        x = torch.rand(shape, dtype=torch.float64) / value_range  # Biases are lost beside 255, and exponentials too large.
        with torch.inference_mode():
            expected, found = original(x), folded.module(x)
        error = (found - expected).abs().max() / expected.abs().max().clamp(min=1 / value_range)
        assert error <= 1e-11, f"max error {error:.3g} of the largest pixel at {shape}"
        assert expected.std() > 1e-3 / value_range
    return folded.folds


@pytest.mark.parametrize(("value_range", "options"), [(1.0, {}), (255.0, {}), (255.0, EVERY_OPTION)], ids=str)
def test_folds_are_exact(built: Built, randomize: Randomize, value_range: float, options: dict[str, bool]) -> None:
    architecture, config = built
    network = randomize(architecture.build(config))
    folds = _assert_exact(network, value_range, config.colors, architecture.size_multiple, **options)
    assert (RANGE in folds) == (value_range == 255)


def test_the_network_stays_untouched(built: Built, randomize: Randomize) -> None:
    architecture, config = built
    network = randomize(architecture.build(config))
    before = copy.deepcopy(network.state_dict())
    modules = [type(module) for module in network.modules()]
    reparameterize(network, 255.0, **EVERY_OPTION)
    assert [type(module) for module in network.modules()] == modules
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_the_result_shares_no_memory(built: Built) -> None:
    architecture, config = built
    network = architecture.build(config).eval()
    folded = reparameterize(network, 1.0).module
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in folded.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_dtype_stays(built: Built, dtype: torch.dtype) -> None:
    architecture, config = built
    folded = reparameterize(architecture.build(config).to(dtype), 255.0).module
    assert {tensor.dtype for tensor in folded.state_dict().values()} == {dtype}
    assert not folded.training


def test_only_convs_remain(built: Built) -> None:
    architecture, config = built
    folded = reparameterize(architecture.build(config), 255.0, **EVERY_OPTION).module
    rest = {type(module) for module in folded.modules() if isinstance(module, Foldable)}
    assert all(issubclass(kind, BSConvU) for kind in rest)
    assert not rest or architecture.name == "bsrn_s"


def test_folding_twice_changes_nothing(built: Built, randomize: Randomize) -> None:
    architecture, config = built
    once = reparameterize(randomize(architecture.build(config)), 1.0)
    x = torch.rand(1, config.colors, 16, 16, dtype=torch.float64)
    assert isinstance(once.module, Network)
    twice = reparameterize(once.module, 1.0)
    assert twice.folds == ()
    with torch.inference_mode():
        assert torch.equal(once.module(x), twice.module(x))


@pytest.mark.parametrize(
    ("name", "fields", "options", "folds"),
    [
        ("rfdn", {}, {}, ("12 x conv(x) + x folded into one conv", RANGE)),
        ("rlfn", {}, {}, (RANGE,)),
        ("reprfn", {}, {}, (RANGE,)),
        ("reprfn", {"merged": False}, {}, ("12 x RepBlock of nine branches merged into one conv", RANGE)),
        ("bsrn", {}, {}, ("four input copies summed into the first conv, which is one dense 3x3", RANGE)),
        (
            "bsrn",
            {},
            {"dense_bsconv": True},
            (
                "four input copies summed into the first conv, which is one dense 3x3",
                "24 x BSConvU(x) + x folded into one dense 3x3",
                "41 x BSConvU folded into one dense 3x3",
                RANGE,
            ),
        ),
        (
            "bsrn_s",
            {},
            {"dense_bsconv": True},
            (
                "78 x Linear turned into conv 1x1",
                "four input copies summed into the first conv",
                "5 x channel weights folded into conv_out",
                RANGE,
            ),
        ),
        ("pan", {}, {}, (RANGE,)),
        (
            "msrn",
            {},
            {"merge_parallel": True},
            (
                "1x1 conv of the mean turned into a subtraction",
                "8 x parallel 3x3 and 5x5 made one 5x5, twice per block",
                "the mean added by the last conv",
                RANGE,
            ),
        ),
        ("ecbsr", {}, {}, (RANGE,)),
        ("rvsr", {"merged": False}, {}, ("9 x RepConv of four branches and identity merged into one conv", RANGE)),
        (
            "rt4ksr",
            {"merged": False},
            {},
            (
                "6 x convs of 1x1, 3x3 and 1x1 with their skips merged into one",
                "pixel unshuffle and first conv made one conv of stride 2",
                "the branch for high frequencies dropped, which is not run",
                RANGE,
            ),
        ),
        (
            "plainusr",
            {"merged": False},
            {},
            (
                "10 x convs of 1x1, 3x3 and 1x1 with their skips merged into one",
                "5 x 1x1 conv of one channel folded into the 3x3",
                RANGE,
            ),
        ),
        ("etds", {"residual": 3}, {}, ("two streams of convs made one", RANGE)),
        (
            "span",
            {"merged": False},
            {},
            (
                "20 x 1x1, 3x3, 1x1 and the 1x1 beside them merged into one conv",
                "img_range 255 folded into the first conv",
                RANGE,
            ),
        ),
        (
            "rfdn_mga",
            {},
            {},
            ("18 x conv(x) + x folded into one conv", "the mask's kernels folded into one conv", RANGE),
        ),
        ("pan_mga", {}, {}, ("the mask's kernels folded into one conv", RANGE)),
        ("dipnet", {}, {}, (RANGE,)),
        ("reprlfn", {}, {}, (RANGE,)),
        ("reprlfn", {"merged": False}, {}, ("12 x RepBlock of five branches merged into one conv", RANGE)),
        ("efdn", {}, {}, (RANGE,)),
        ("efdn", {"merged": False}, {}, ("8 x EDBB of parallel branches merged into one conv", RANGE)),
        ("plainrfdn", {}, {}, (RANGE,)),
        ("imdn", {}, {}, (RANGE,)),
        ("fmen", {}, {}, ("5 x HFAB rescaled by powers of two", RANGE)),
        ("safmnpp_light", {}, {}, ("2 x 1x1 conv folded into the 3x3 behind it", RANGE)),
        (
            "ecbsr",
            {"merged": False, "identity": True},
            {},
            (
                "2 x ECB of five branches merged into one conv",
                "4 x ECB of five branches and identity merged into one conv",
                RANGE,
            ),
        ),
    ],
)
def test_folds_are_named(name: str, fields: dict[str, Any], options: dict[str, bool], folds: tuple[str, ...]) -> None:
    architecture = next(entry for entry in REGISTRY if entry.name == name)
    config = type(architecture.default)(**{**vars(architecture.default), **fields})
    assert set(reparameterize(architecture.build(config), 255.0, **options).folds) == set(folds)


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", ["etds", "ecbsr_et"])
def test_a_clip_becomes_a_clamp(name: str, scale: int, value_range: float, randomize: Randomize) -> None:
    architecture = next(entry for entry in REGISTRY if entry.name == name)
    config = dataclasses.replace(architecture.default, scale=scale, channels=8, blocks=1)
    network = randomize(architecture.build(config))
    (clip,) = (module for module in network.modules() if isinstance(module, ClipConv))
    clip.weight.data = -identity_kernel(clip.weight.data)
    nn.init.ones_(clip.bias)
    assert FOLD in _assert_exact(network, value_range, 3)
    assert not any(isinstance(module, ClipConv) for module in reparameterize(network, value_range).module.modules())


def test_the_mean_is_subtracted_in_the_unit_range() -> None:
    folded = reparameterize(MSRN(MSRNConfig(scale=2, colors=3, channels=4, blocks=1)), 255.0).module
    shift = folded.get_submodule("sub_mean")
    assert isinstance(shift, Subtract)
    assert torch.allclose(shift.mean.flatten(), torch.tensor([0.4488, 0.4371, 0.4040]))


def test_a_mean_shift_that_mixes_colors_stays_a_conv(randomize: Randomize) -> None:
    network = randomize(MSRN(MSRNConfig(scale=2, colors=3, channels=4, blocks=1)))
    assert isinstance(reparameterize(network, 255.0).module.get_submodule("sub_mean"), MeanShift)
    _assert_exact(network, 255.0, 3)


def test_the_real_mean_folds_exactly(randomize: Randomize) -> None:
    network = MSRN(MSRNConfig(scale=2, colors=3, channels=4, blocks=1))
    mean = copy.deepcopy(network.sub_mean).double()
    network = randomize(network)
    network.sub_mean = mean
    _assert_exact(network, 255.0, 3)


def test_a_wrong_fold_is_noticed(randomize: Randomize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SkipConv, "forward", nn.Conv2d.forward)
    network = randomize(RFDN(RFDNConfig(scale=2, colors=3, channels=4, distilled=2, esa=2, blocks=1)))
    with pytest.raises(AssertionError, match="max error"):
        _assert_exact(network, 1.0, 3)
