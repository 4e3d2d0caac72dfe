"""From a training to a bundle, with nothing said in between."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from sr_deploy.architectures import load_checkpoint
from sr_deploy.export import export_bundle
from sr_deploy.export.probes import probe_picture
from sr_deploy.training import Trained, read_recipe, train

RECIPE = """
name = "tiny"
architecture = "{architecture}"
hr = ["photos"]
hold_out = 1
threads = 1
network = {{ scale = 2, colors = 3, {network} }}
stages = [{{ steps = 2, batch = 1, crop = 32, learning_rate = 1e-6, losses = {{ l1 = 1.0 }} }}]
"""


def trained(folder: Path, architecture: str, network: str, said: list[str], **given: object) -> Trained:
    (folder / "photos").mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / "photos" / f"{number}.png"), probe_picture()[60 * number : 60 * number + 64, 40:104, ::-1])
    (folder / "recipe.toml").write_text(RECIPE.format(architecture=architecture, network=network), encoding="utf-8")
    recipe = read_recipe(folder / "recipe.toml", hr=(str(folder / "photos"),), **given)
    return train(recipe, folder / "run", say=said.append)


@pytest.mark.filterwarnings("ignore:.*dB on the test picture")
@pytest.mark.parametrize(
    ("architecture", "network", "settings"),
    [
        ("ecbsr", "channels = 4, blocks = 0", {"value_range": 1.0}),
        ("rlfn", "channels = 8, blocks = 1", {"value_range": 255.0}),
    ],
)
def test_a_trained_checkpoint_says_what_its_weights_do_not(
    tmp_path: Path, architecture: str, network: str, settings: dict[str, object]
) -> None:
    said: list[str] = []
    result = trained(tmp_path, architecture, network, said)
    assert result.score.psnr_y < result.bicubic.psnr_y
    assert said[-1].startswith("warning: the trained network has ") and "plain bicubic upscaling has" in said[-1]
    for path in (result.checkpoint, result.training_form):
        assert settings.items() <= load_checkpoint(path).checkpoint.settings.items()
    bundle = export_bundle(result.checkpoint, tmp_path / "net", anyway=True)
    assert bundle.card.detection is not None
    assert (bundle.card.detection.decided_by, bundle.card.value_range) == ("checkpoint", settings["value_range"])


def test_from_a_good_start_to_a_bundle_without_a_flag(shared: Path, tmp_path: Path) -> None:
    said: list[str] = []
    start = str(shared / "checkpoints" / "ECBSR_M4C16_x2.pth")
    result = trained(tmp_path, "ecbsr", "channels = 16, blocks = 4, merged = true", said, start=start)
    assert result.score.psnr_y > result.bicubic.psnr_y
    assert not any(line.startswith("warning") for line in said)
    bundle = export_bundle(result.checkpoint, tmp_path / "net")
    assert (bundle.card.scale, bundle.card.value_range) == (2, 1.0)
