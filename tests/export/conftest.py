"""Bundles exported once for all tests of this folder, and small networks that need no checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from sr_deploy.bundle import Bundle
from sr_deploy.engines.open import open_bundle
from sr_deploy.export import export_bundle
from sr_deploy.export.probes import probe_picture

RECIPES = Path(__file__).parents[2] / "export"

FAMILIES = ("rfdn_x4", "rlfn_ntire_x4", "reprfn_x4", "bsrn_x4", "bsrn_s_x4", "pan_x2", "ecbsr_m4c16_x2")
"""Recipes that stand for their families."""


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    return probe_picture()


@pytest.fixture(scope="session")
def bundle_of(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The bundle of a checkpoint in the shared folder, by its recipe where it has one; exported once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    folder.mkdir(exist_ok=True)

    def make(checkpoint: str) -> Bundle:
        target = folder / Path(checkpoint).stem
        with FileLock(f"{target}.lock"):
            return open_bundle(target) if target.exists() else export_bundle(shared / "checkpoints" / checkpoint, target)

    return make


class Tiny(nn.Module):
    """A network of two convs, a resize to a computed size, a global mean and a pixel shuffle, scale 2."""

    def __init__(self, colors: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Conv2d(colors, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.tail = nn.Conv2d(8, colors * 4, 3, padding=1)
        nn.init.constant_(self.tail.bias, 0.5)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = nn.functional.gelu(self.head(x))
        small = nn.functional.leaky_relu(self.down(features), 0.05)
        context = nn.functional.interpolate(small, size=features.shape[2:], mode="bilinear", align_corners=False)
        centered = context - context.mean((2, 3), keepdim=True)
        spread = centered.pow(2).mean((2, 3), keepdim=True).sqrt()
        upscaled: torch.Tensor = self.shuffle(self.tail(features * torch.sigmoid(context + spread)))
        return upscaled


@pytest.fixture
def tiny() -> Tiny:
    return Tiny().eval()
