"""A folder of small photos, and a recipe that trains on them in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_deploy.export.probes import probe_picture
from sr_deploy.training import TrainingRecipe, read_recipe

RECIPE = """
name = "tiny"
architecture = "{architecture}"
seed = 3
hr = ["photos"]
hold_out = 1
validate_every = 4
save_every = 3
device = "cpu"
threads = 1

[network]
{network}

[[stages]]
steps = 6
batch = 2
crop = 32
learning_rate = 2e-3
schedule = "cosine"
ema = 0.8
losses = {{ l1 = 1.0 }}

[[stages]]
steps = 5
batch = 2
crop = 32
learning_rate = 1e-3
schedule = "halving"
halve_every = 2
losses = {{ mse = 1.0, fourier = 0.01, contrastive = 0.1 }}
"""
NETWORK = "scale = 2\ncolors = 3\nchannels = 8\nblocks = 1"

MakeRecipe = Callable[..., TrainingRecipe]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos of different sizes; one name is not ASCII, one file is a JPEG in a folder of its own."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    (folder / "more").mkdir(parents=True)
    picture = cv2.cvtColor(probe_picture(), cv2.COLOR_RGB2BGR)
    crops = {"a.png": picture[:70, :90], "é 漢字 [x].png": picture[90:150, 20:97], "c.png": picture[100:141, 100:140]}
    for name, crop in crops.items():
        (folder / name).write_bytes(cv2.imencode(".png", crop)[1].tobytes())
    (folder / "more" / "d.JPG").write_bytes(cv2.imencode(".jpg", picture[:64, 150:230])[1].tobytes())
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def make_recipe(photos: Path) -> MakeRecipe:
    """Write a recipe beside the photos and read it."""

    def make(architecture: str = "ecbsr", network: str = NETWORK, **given: object) -> TrainingRecipe:
        path = photos.parent / "tiny.toml"
        path.write_text(RECIPE.format(architecture=architecture, network=network), encoding="utf-8")
        return read_recipe(path, **given)

    return make


@pytest.fixture
def noise() -> np.random.Generator:
    return np.random.default_rng(5)
