import json
from pathlib import Path

import pytest

from sr_deploy.architectures import load_checkpoint
from sr_deploy.bundle import sha256_of
from sr_deploy.errors import CheckpointError, UsageError
from sr_deploy.export import export_bundle, read_recipe
from tests.export.conftest import RECIPES

ALL = sorted(RECIPES.glob("*.toml"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_recipes_fit_their_checkpoints(shared: Path, path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    checkpoint = shared / "checkpoints" / recipe.checkpoint
    assert sha256_of(checkpoint) == recipe.sha256
    loaded = load_checkpoint(checkpoint, architecture=recipe.architecture)
    wanted = {"value_range": recipe.value_range, **recipe.variant}
    fits = [
        reading
        for reading in loaded.readings
        if all(getattr(reading, key, getattr(reading.config, key, None)) == value for key, value in wanted.items())
    ]
    assert len(fits) == 1
    assert recipe.expected["Set5"] > 30


def test_a_recipe_for_every_golden_checkpoint(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "golden.json").read_text())
    published = {facts["checkpoint"] for facts in golden.values() if facts["where"] == "checkpoints/"}
    assert published <= {read_recipe(path).checkpoint for path in ALL}


def test_a_recipe_decides_and_stands_in_the_card(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / "checkpoints" / "ECBSR_M4C16_x2.pth"
    bundle = export_bundle(checkpoint, tmp_path / "net", recipe=RECIPES / "ecbsr_m4c16_x2.toml")
    assert bundle.card.name == "ecbsr_m4c16_x2"
    assert bundle.card.source is not None
    assert bundle.card.source.recipe == "ecbsr_m4c16_x2"
    assert bundle.card.source.license == "Apache-2.0"
    assert bundle.card.source.expected == {"Set5": 37.173}
    assert bundle.card.detection is not None
    assert bundle.card.detection.decided_by == "recipe"
    assert "37.173 dB" in (bundle.folder / "report.html").read_text(encoding="utf-8")


def test_a_recipe_of_another_file_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not the file of recipe 'rlfn_x4': sha256 d13482aa1e73, expected 8c7edb57dfc8"):
        export_bundle(shared / "checkpoints" / "ECBSR_M4C16_x2.pth", tmp_path / "net", recipe=RECIPES / "rlfn_x4.toml")


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    text = (RECIPES / "rlfn_x4.toml").read_text(encoding="utf-8").replace("value_range", "value_rnage")
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="did you mean 'value_range'"):
        read_recipe(tmp_path / "r.toml")
