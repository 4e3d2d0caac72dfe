"""Adaptive pooling in operators of ONNX, against torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.architectures import load_checkpoint
from sr_deploy.architectures.safmnpp_light import shrunk


@pytest.mark.parametrize("sides", [range(8, 40), range(60, 75), (255, 256, 1000, 1919)], ids=["small", "middle", "large"])
def test_windows_are_those_of_adaptive_pooling(sides: Iterable[int]) -> None:
    torch.manual_seed(0)
    for side in sides:
        x = torch.randn(2, 3, side, 17)
        assert torch.equal(shrunk(shrunk(x, 2), 3), F.adaptive_max_pool2d(x, (side // 8, 2))), side
        assert torch.equal(shrunk(shrunk(x.mT, 2), 3), F.adaptive_max_pool2d(x.mT, (2, side // 8))), side


def test_averaged_weights_are_taken(shared: Path) -> None:
    """The file has both, and the published script runs those that are not averaged."""
    checkpoint = load_checkpoint(shared / "checkpoints" / "light_safmnpp.pth").checkpoint
    assert (checkpoint.wrapper, checkpoint.left) == ("params_ema", ("params",))
