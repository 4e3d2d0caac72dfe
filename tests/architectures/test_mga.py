"""MGA against the published implementation, and against itself patch by patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.architectures import reparameterize
from sr_deploy.architectures.mga import MGAConfig, best, crops, paste, reference_parts
from sr_deploy.architectures.pan_mga import PANMGA
from sr_deploy.architectures.rfdn_mga import RFDNMGA

SMALL = MGAConfig(scale=4, colors=3, channels=8, blocks=3, refine_blocks=1)


def test_rfdn_mga_is_the_published_network(shared: Path) -> None:
    network = RFDNMGA(MGAConfig(scale=4, colors=3)).eval()
    network.load_state_dict(torch.load(shared / "golden" / "rfdn_mga_x4.pth", weights_only=True))
    golden = {name: torch.from_numpy(array) for name, array in np.load(shared / "golden" / "rfdn_mga_x4.npz").items()}
    with torch.inference_mode():
        coarse, _, scores = network.look(golden["x"])
        chosen = best(scores, 24)
        refined = network.masked(golden["x"], 24)
    torch.testing.assert_close(coarse, golden["coarse"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, golden["mask"], atol=1e-5, rtol=0)
    torch.testing.assert_close(refined, golden["y"], atol=1e-5, rtol=0)
    _, rows, columns = golden["selected"]
    assert set(chosen.tolist()) == set((rows * scores.shape[-1] + columns).tolist())


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("build", [RFDNMGA, PANMGA])
def test_both_parts_fold_exactly(
    build: type[RFDNMGA] | type[PANMGA], value_range: float, randomize: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomize(build(SMALL))
    assert isinstance(network, RFDNMGA | PANMGA)
    folded = reparameterize(network, value_range).module
    assert isinstance(folded, RFDNMGA | PANMGA)
    original = reference_parts(network, value_range)
    torch.manual_seed(1)
    image = torch.rand(2, 3, 12, 20, dtype=torch.float64)
    with torch.inference_mode():
        expected = original.look(image)
        for found, wanted in zip(folded.look(image), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        assert float(expected[2].std()) > 1e-3
        patches = crops(expected[1], torch.arange(15))
        torch.testing.assert_close(folded.refine(patches), original.refine(patches), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_refined_patch_of_pan_lies_on_the_image_enlarged_as_a_whole(
    scale: int, randomize: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomize(PANMGA(MGAConfig(scale, 3, 8, 3, 1)))
    assert isinstance(network, PANMGA)
    image = torch.rand(1, 3, 12, 20, dtype=torch.float64)
    with torch.inference_mode():
        nn.init.zeros_(network.refine.conv_last.weight)
        nn.init.zeros_(network.refine.conv_last.bias)
        expected = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected)


def test_crops_are_zero_beyond_the_image() -> None:
    features = torch.arange(2 * 8 * 12, dtype=torch.float32).view(1, 2, 8, 12) + 1
    padded = F.pad(features, (1, 1, 1, 1))[0]
    patches = crops(features, torch.tensor([0, 4, 5]))
    assert patches.shape == (3, 2, 6, 6)
    for patch, (top, left) in zip(patches, [(0, 0), (4, 4), (4, 8)], strict=True):
        torch.testing.assert_close(patch, padded[:, top : top + 6, left : left + 6])


def test_patches_go_back_where_they_come_from() -> None:
    image = torch.rand(1, 3, 16, 24)
    tiles = F.unfold(image, 8, stride=8)[0].T.view(6, 3, 8, 8)
    chosen = torch.tensor([1, 5])
    torch.testing.assert_close(paste(torch.zeros_like(image), tiles, torch.arange(6)), image)
    part = paste(torch.zeros_like(image), tiles[chosen], chosen)
    torch.testing.assert_close(part[..., :8, 8:16], image[..., :8, 8:16])
    assert int((part != 0).sum()) <= 2 * 3 * 64


@pytest.mark.parametrize(
    ("scores", "k", "expected"), [([3, 1, 2, 9], 2, [0, 3]), ([1, 1, 1, 1], 3, [0, 1, 2]), ([2, 5], 9, [0, 1])]
)
def test_the_best_patches(scores: list[float], k: int, expected: list[int]) -> None:
    assert best(Tensor(scores).view(1, 1, 1, -1), k).tolist() == expected


@pytest.mark.parametrize("build", [RFDNMGA, PANMGA])
def test_the_refinement_of_a_patch_sees_that_patch_alone(
    build: type[RFDNMGA] | type[PANMGA], randomize: Callable[[nn.Module], nn.Module]
) -> None:
    network = randomize(build(SMALL))
    assert isinstance(network, RFDNMGA | PANMGA)
    with torch.inference_mode():
        patches = torch.rand(
            3, network.look(torch.rand(1, 3, 16, 16, dtype=torch.float64))[1].shape[1], 6, 6, dtype=torch.float64
        )
        together = network.refine(patches)
        for patch, pixels in zip(patches, together, strict=True):
            torch.testing.assert_close(network.refine(patch[None])[0], pixels)
        assert together.shape == (3, 3, 16, 16)
