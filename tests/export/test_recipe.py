import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import sr_deploy.models.recipe as recipes
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
    folders = (shared / "checkpoints", shared / "next" / "checkpoints")
    (checkpoint,) = (path for folder in folders for path in folder.rglob(recipe.checkpoint))
    assert sha256_of(checkpoint) == recipe.sha256
    assert recipe.file is None or recipe.file.bytes == checkpoint.stat().st_size
    assert recipe.download == "" or re.fullmatch(rf"https://[\w.]+/.*/{re.escape(recipe.checkpoint)}", recipe.download)
    loaded = load_checkpoint(checkpoint, architecture=recipe.architecture)
    wanted = {"value_range": recipe.value_range, **recipe.variant}
    fits = [
        reading
        for reading in loaded.readings
        if all(getattr(reading, key, getattr(reading.config, key, None)) == value for key, value in wanted.items())
    ]
    assert len(fits) == 1
    assert recipe.expected["Set5"] > 28


def test_a_recipe_for_every_golden_checkpoint(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "golden.json").read_text())
    published = {facts["checkpoint"] for facts in golden.values() if facts["where"] == "checkpoints/"}
    assert published <= {read_recipe(path).checkpoint for path in ALL}


@pytest.mark.long
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


@pytest.mark.long
def test_the_recipe_of_a_published_checkpoint_applies_by_itself(shared: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copy(shared / "checkpoints" / "ECBSR_M4C16_x2.pth", tmp_path / "found.pth")
    told: list[str] = []
    bundle = export_bundle(checkpoint, tmp_path / "net", progress=told.append)
    assert told[0] == "found.pth is published: recipe 'ecbsr_m4c16_x2' applies, license Apache-2.0"
    source, detection = bundle.card.source, bundle.card.detection
    assert source is not None and detection is not None
    assert (bundle.card.name, source.file, detection.decided_by) == ("found", "found.pth", "recipe")
    assert (source.recipe, source.license, source.expected) == ("ecbsr_m4c16_x2", "Apache-2.0", {"Set5": 37.173})
    assert source.url == "https://github.com/ECNUSR/ETDS"


@pytest.mark.filterwarnings("ignore:.*asked for value range 255")
def test_flags_win_over_the_recipe_of_a_published_checkpoint(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / "checkpoints" / "ECBSR_M4C16_x2.pth"
    bundle = export_bundle(checkpoint, tmp_path / "net", name="mine", value_range=255, anyway=True)
    source, detection = bundle.card.source, bundle.card.detection
    assert source is not None and detection is not None
    assert (bundle.card.name, bundle.card.value_range, detection.decided_by) == ("mine", 255, "flag")
    assert (source.recipe, source.license) == ("ecbsr_m4c16_x2", "Apache-2.0")


def test_the_same_weights_in_another_file_are_measured(shared: Path, tmp_path: Path) -> None:
    weights = torch.load(shared / "checkpoints" / "ECBSR_M4C16_x2.pth", weights_only=True)
    torch.save(weights, tmp_path / "again.pth")
    bundle = export_bundle(tmp_path / "again.pth", tmp_path / "net")
    source, detection = bundle.card.source, bundle.card.detection
    assert source is not None and detection is not None
    assert (bundle.card.value_range, detection.decided_by, source.recipe) == (1, "measurement", "")
    assert (source.license, source.url, source.expected) == ("unknown", "", {})


def test_a_missing_checkpoint_says_where_the_recipe_has_it_from(tmp_path: Path) -> None:
    expected = r"no\.pth: no such file; recipe 'rlfn_x4' is of rlfn_x4\.pth from https://github\.com/bytedance/RLFN$"
    with pytest.raises(CheckpointError, match=expected):
        export_bundle(tmp_path / "no.pth", recipe="rlfn_x4")


@pytest.mark.parametrize("recipe", [None, "rlfn_x4"])
def test_a_checkpoint_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str | None) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(recipes, "sha256_of", refuse)
    (tmp_path / "mine.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"mine\.pth: cannot be read \(Permission denied\); "):
        export_bundle(tmp_path / "mine.pth", recipe=recipe)


def test_a_recipe_of_another_file_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not the file of recipe 'rlfn_x4': sha256 d13482aa1e73, expected 8c7edb57dfc8"):
        export_bundle(shared / "checkpoints" / "ECBSR_M4C16_x2.pth", tmp_path / "net", recipe=RECIPES / "rlfn_x4.toml")


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^rlfn_ntire_x5: .* no recipe of that name; did you mean 'rlfn_ntire_x4'\?$"):
        export_bundle(tmp_path / "no.pth", recipe="rlfn_ntire_x5")


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    text = (RECIPES / "rlfn_x4.toml").read_text(encoding="utf-8").replace("value_range", "value_rnage")
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="did you mean 'value_range'"):
        read_recipe(tmp_path / "r.toml")
