"""Names of networks in the box, against a box made on the spot."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sr_deploy import BundleError, Upscaler, UsageError, models, open_bundle
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, ModelCard
from sr_deploy.models.recipe import FREE_LICENSES
from tests.graphs import image_graph, save
from tests.wheels import FOLDERS, build, copy_source


def make_bundle(folder: Path, scale: int) -> Path:
    folder.mkdir(parents=True)
    path = save(image_graph(scale=scale, depth=1), folder, "fp32.onnx")
    graphs = {"fp32": GraphCard(path.name, "fp32", sha256_of(path), 20)}
    card = ModelCard(folder.name, "test", scale, 3, tiling="exact", halo=2, activation_bytes=100)
    Bundle(folder, card, graphs).write_card()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("box")
    for name, scale in (("quality-x2", 2), ("fast-x4", 4), ("fast-x2", 2), ("fast-x3", 3), ("quality-small-x4", 4)):
        make_bundle(box / name, scale)
    (box / "__pycache__").mkdir()
    (box / "fast-x8").mkdir()
    return box


@pytest.fixture
def box(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "FOLDER", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_what_there_is(box: Path) -> None:
    found = [(model.name, model.scale, model.folder) for model in models.available()]
    assert found == [
        ("fast", 2, box / "fast-x2"),
        ("fast", 3, box / "fast-x3"),
        ("fast", 4, box / "fast-x4"),
        ("quality", 2, box / "quality-x2"),
        ("quality-small", 4, box / "quality-small-x4"),
    ]


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("fast", None, "fast-x4"),
        ("fast", 2, "fast-x2"),
        ("fast", 3.0, "fast-x3"),
        ("fast", 2.5, "fast-x3"),
        ("fast", 1, "fast-x2"),
        ("fast", 0.5, "fast-x2"),
        ("fast", 8, "fast-x4"),
        ("fast-x2", None, "fast-x2"),
        ("fast-x2", 4, "fast-x2"),
        ("quality", None, "quality-x2"),
        ("quality-small", 2, "quality-small-x4"),
    ],
)
def test_a_name_means_the_network_for_the_scale(box: Path, name: str, scale: float | None, expected: str) -> None:
    assert models.find(name, scale) == models.resolve(name, scale) == models.resolve(Path(name), scale) == box / expected


def test_a_name_stands_for_what_begins_with_it(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    shutil.copytree(box / "quality-small-x4", small / "quality-small-x4")
    monkeypatch.setattr(models, "FOLDER", small)
    assert models.find("quality") == models.resolve("quality") == small / "quality-small-x4"
    assert models.is_in_the_box("quality") and not models.is_in_the_box("qual")


@pytest.mark.parametrize("name", ["fast-x8", "slow", "", "fas", "FAST", "../fast-x2", "fast-x2/"])
@pytest.mark.usefixtures("box")
def test_an_unknown_name_is_told_what_there_is(name: str) -> None:
    names = "fast-x2, fast-x3, fast-x4, quality-x2, quality-small-x4"
    with pytest.raises(UsageError, match=re.escape(f"{name}: no network of that name in the box; there are {names}")):
        models.find(name)


@pytest.mark.usefixtures("box")
def test_a_name_that_is_nothing_at_all() -> None:
    with pytest.raises(UsageError, match=r"^slow: not a bundle, no such folder, and no network .* fast-x2.* `sr-deploy export"):
        open_bundle("slow")


def test_an_empty_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    assert models.available() == ()
    with pytest.raises(UsageError, match="fast: no network of that name in the box; this installation has none"):
        models.find("fast")
    with pytest.raises(UsageError, match="fast: not a bundle, no such folder, and no network"):
        open_bundle("fast")


@pytest.mark.usefixtures("box")
def test_a_bundle_on_disk_comes_first() -> None:
    own = make_bundle(Path("fast"), 2)
    assert models.resolve("fast") == own
    assert open_bundle("fast").card.scale == 2
    Path("fast-x3").write_bytes(b"")
    assert models.resolve("fast-x3") == Path("fast-x3")


def test_a_folder_of_results_does_not_hide_the_box(box: Path) -> None:
    Path("fast").mkdir()
    Path("fast/photo.png").write_bytes(b"")
    assert models.resolve("fast", 2) == box / "fast-x2"
    assert models.resolve("./fast") == Path("fast")
    with pytest.raises(BundleError, match=r"fast: not a bundle, it has no card\.json"):
        open_bundle("./fast")


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("path", ["./fast", "a/fast", "fast.onnx", "/fast", ".", "..", ""])
def test_a_path_is_no_name(path: str) -> None:
    assert models.resolve(path) == Path(path)


def test_another_folder_keeps_its_own_error(box: Path) -> None:
    del box
    Path("photos").mkdir()
    with pytest.raises(BundleError, match=r"photos: not a bundle, it has no card\.json"):
        open_bundle("photos")


@pytest.mark.usefixtures("box")
def test_names_work_in_python() -> None:
    with Upscaler("fast-x3") as upscale:
        assert upscale(np.full((5, 7, 3), 99, np.uint8)).shape == (15, 21, 3)
    with Upscaler("fast") as upscale:
        assert upscale.scale == 4


def test_recipes(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(box, tmp_path / "box")
    (copy / "fast-x2" / "recipe.toml").write_text("name = 'fast'\n")
    monkeypatch.setattr(models, "FOLDER", copy)
    assert [model.recipe for model in models.available()[:2]] == [copy / "fast-x2" / "recipe.toml", None]


def test_every_network_in_the_box_is_what_its_folder_says() -> None:
    for model in models.available():
        bundle = Bundle.open(model.folder)
        assert (bundle.card.scale, model.folder.is_dir()) == (model.scale, True)
        assert bundle.card.source is not None and "Set5" in bundle.card.source.expected
        assert model.recipe is not None and bundle.card.source.purpose
        assert bundle.card.source.credits
        assert {credit.rpartition(": ")[2] for credit in bundle.card.source.credits} <= FREE_LICENSES
        assert all(path.is_file() for path in model.folder.iterdir()), "wheels take files directly in the folder only"
        assert sum(path.stat().st_size for path in model.folder.iterdir()) < 2_000_000


def test_a_wheel_carries_the_box(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = copy_source(tmp_path / "source")
    shutil.copytree(made / "fast-x2", source / "sr_deploy/models/test-x2")
    wanted = {path.relative_to(source).as_posix() for path in (source / "sr_deploy").rglob("*") if path.is_file()}
    wanted |= {f"sr_deploy/data/{kind}/{path.name}" for kind in FOLDERS for path in (source / kind).glob("*.toml")}
    (source / "sr_deploy/models/__pycache__").mkdir()
    (source / "sr_deploy/models/__pycache__/x.pyc").write_bytes(b"")
    wheel = build("wheel", source, tmp_path)
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("sr_deploy/")}
    assert {"sr_deploy/models/test-x2/card.json", "sr_deploy/models/test-x2/fp32.onnx"} <= inside
    assert wanted == inside
