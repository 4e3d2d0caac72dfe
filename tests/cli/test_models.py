from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sr_deploy import models
from sr_deploy.batch import UpscalerSpec
from sr_deploy.bundle import Bundle
from sr_deploy.card import Source
from sr_deploy.cli import models as listing
from sr_deploy.errors import UsageError
from sr_deploy.models import resolve
from sr_deploy.models.recipe import recipes
from sr_deploy.pictures.image import read_image, write_image
from sr_deploy.pictures.picture import Picture

Invoke = Callable[..., Result]


@pytest.fixture
def box(bundle: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks, one of them with all that is known of it."""
    folder = tmp_path_factory.mktemp("box")
    shutil.copytree(bundle, folder / "plain-x2")
    known = Bundle.open(shutil.copytree(bundle, folder / "fast-x2"))
    source = Source(
        "fast_x2.pth", "0" * 64, "Apache-2.0", expected={"Set5": 36.9876}, purpose="clean pictures", credits=("photos: MIT",)
    )
    dataclasses.replace(known, card=dataclasses.replace(known.card, source=source, parameters=12345)).write_card()
    (folder / "fast-x2" / "recipe.toml").write_text("name = 'fast'\n")
    monkeypatch.setattr(models, "FOLDER", folder)
    return folder


def test_a_table(invoke: Invoke, box: Path) -> None:
    result = invoke("models")
    assert result.exit_code == 0, result.stderr
    header, _, fast, plain, _, *short, _, again, _, titles, _ = result.stdout.partition("\nabpn_m4c28_x4")[0].splitlines()
    assert short == ["fast: fast-x2, by the factor, for clean pictures", "plain: plain-x2, by the factor"]
    assert titles.split() == ["published", "kB", "Set5", "PSNR-Y", "dB", "license"]
    assert header.split() == ["-m", "scale", "kB", "parameters", "Set5", "PSNR-Y", "dB", "license"]
    size = sum(path.stat().st_size for path in (box / "fast-x2").iterdir()) // 1000
    assert fast.split() == ["fast-x2", "x2", str(size), "12345", "36.988", "Apache-2.0"]
    assert plain.split()[0] == "plain-x2" and plain.split()[4:] == ["-", "unknown"]
    assert again == f"train fast-x2 again: sr-deploy train {box / 'fast-x2' / 'recipe.toml'} --hr PHOTOS"


def test_json_and_speed(invoke: Invoke, box: Path) -> None:
    result = invoke("models", "--measure", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["input"] == [480, 270]
    fast, plain = document["models"]
    assert (fast["network"], fast["scale"], fast["psnr_y"], fast["license"]) == ("fast-x2", 2, {"Set5": 36.9876}, "Apache-2.0")
    assert (fast["path"], fast["recipe"]) == (str(box / "fast-x2"), str(box / "fast-x2" / "recipe.toml"))
    assert (fast["purpose"], fast["credits"]) == ("clean pictures", ["photos: MIT"])
    assert (plain["psnr_y"], plain["recipe"]) == ({}, None)
    assert fast["milliseconds"] > 0 and plain["milliseconds"] > 0
    assert json.loads(invoke("models", "--json").stdout)["models"][0]["milliseconds"] is None


def test_what_can_be_fetched(invoke: Invoke, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shutil.copytree(bundle, models.fetched_folder("rlfn_x2"))
    kept = [recipe for recipe in recipes() if recipe.name in ("pan_x2", "rlfn_x2", "rlfn_x4")]
    kept.append(dataclasses.replace(kept[-1], name="elsewhere", download=""))
    monkeypatch.setattr(listing, "recipes", lambda: kept)
    assert [re.split("  +", line) for line in invoke("models").stdout.splitlines()[-4:]] == [
        ["pan_x2", "1076", "38.001", "none stated", "sr-deploy fetch pan_x2 --yes"],
        ["rlfn_x2", "2145", "38.066", "Apache-2.0", "fetched"],
        ["rlfn_x4", "2212", "32.238", "Apache-2.0", "sr-deploy fetch rlfn_x4"],
        ["elsewhere", "-", "32.238", "Apache-2.0", "not to be fetched: get it from https://github.com/bytedance/RLFN"],
    ]
    pan, there, _, elsewhere = json.loads(invoke("models", "--json").stdout)["published"]
    assert (pan["asks"], pan["fetched"], pan["download"].partition("://")[0]) == (True, False, "https")
    assert there["fetched"] and (elsewhere["kilobytes"], elsewhere["download"]) == (None, "")


def test_every_alias_is_listed_and_runs(invoke: Invoke) -> None:
    assert models.aliases() == {
        "fast": ("fast-x2", "fast-x3", "fast-x4"),
        "photo": ("photo-x2", "photo-x4"),
        "photo-fast": ("photo-fast-x2", "photo-fast-x4"),
        "quality": ("quality-small-x2", "quality-small-x4"),
        "quality-small": ("quality-small-x2", "quality-small-x4"),
    }
    listed = invoke("models").stdout.splitlines()
    for name, networks in models.aliases().items():
        assert any(line.startswith(f"{name}: ") for line in listed)
        assert {models.find(name, scale).name for scale in (2, 3, 4)} == set(networks)


@pytest.mark.usefixtures("box")
def test_speed_in_the_table(invoke: Invoke) -> None:
    header, _, fast, *_ = invoke("models", "--measure").stdout.splitlines()
    assert header.split()[-1] == "ms" and float(fast.split()[-1]) > 0


def test_an_empty_box(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    result = invoke("models")
    assert (result.exit_code, result.stdout.splitlines()[0].split()[0]) == (0, "published")
    assert "no network in the box" in result.stderr and "sr-deploy export" in result.stderr
    assert json.loads(invoke("models", "--json").stdout)["models"] == []


def test_a_network_that_was_changed(invoke: Invoke, box: Path) -> None:
    with (box / "fast-x2" / "fp32.onnx").open("ab") as file:
        file.write(b"x")
    result = invoke("models")
    assert (result.exit_code, "changed since it was certified" in result.stderr) == (1, True)


@pytest.mark.usefixtures("box")
def test_other_commands_take_the_names(invoke: Invoke) -> None:
    result = invoke("bench", "fast", "--size", "8x8", "--runs", "1", "--backend", "onnxruntime")
    assert result.exit_code == 0, result.stderr
    result = invoke("inspect", "fast", "--json")
    assert json.loads(result.stdout)["card"]["parameters"] == 12345
    assert invoke("verify", "fast-x2", "--backend", "onnxruntime").exit_code == 0
    result = invoke("evaluate", "fast", "--hr", "gone")
    assert (result.exit_code, "gone: no such folder" in result.stderr) == (2, True)


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("model", [[], ["-m", "fast"], ["-m", "fast-x2"]])
def test_upscale_runs_a_network_in_the_box(invoke: Invoke, pictures: list[Path], model: list[str]) -> None:
    result = invoke("upscale", pictures[0], *model, "-o", "out/")
    assert result.exit_code == 0, result.stderr
    assert read_image(Path("out/a.png")).pixels.shape == (40, 60, 3)


def test_a_file_chooses_the_network_where_none_is_named(invoke: Invoke, box: Path) -> None:
    other = Bundle.open(shutil.copytree(box / "plain-x2", box / "photo-fast-x2"))
    dataclasses.replace(other, card=dataclasses.replace(other.card, name="photo_fast_x2")).write_card()
    Path("in").mkdir()
    random = np.random.default_rng(1)
    for name, quality in (("a.png", None), ("b.jpg", 50), ("c.jpg", 98)):
        pixels = random.integers(0, 256, (20, 30, 3), np.uint8)
        write_image(Path("in") / name, Picture(pixels), quality=quality)
    result = invoke("upscale", "in", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [(Path(done["output"]).name, done["network"]) for done in document["done"]] == [
        ("a.png", document["network"]),
        ("b.jpg", "photo_fast_x2"),
        ("c.jpg", document["network"]),
    ]
    assert document["notes"][0]["note"].startswith("it lost much to JPEG, and photo-fast-x2 restores that")
    assert sorted(path.name for path in Path("in_x2").iterdir()) == ["a.png", "b.jpg", "c.jpg"]
    assert Path(invoke("upscale", "in/b.jpg").stdout.strip()).name == "b_photo_fast_x2.jpg"
    assert "photo_fast" not in invoke("upscale", "in/b.jpg", "-m", "fast", "-o", "named/", "--json").stdout
    assert json.loads(invoke("plan", "in/b.jpg", "--json").stdout)["failed"] == []


@pytest.mark.parametrize(
    ("size", "network"), [([], 4), (["-s", "2"], 2), (["-s", "3"], 4), (["--to", "2x"], 2), (["--to", "4k"], 4)]
)
def test_the_size_chooses_the_network(
    invoke: Invoke, box: Path, pictures: list[Path], size: list[str], network: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def remember(spec: UpscalerSpec) -> None:
        opened.append(resolve(spec.model))
        raise UsageError("enough seen")

    monkeypatch.setattr("sr_deploy.cli.upscale.open_upscaler", remember)
    shutil.copytree(box / "fast-x2", box / "fast-x4")
    invoke("upscale", pictures[0], *size)
    invoke("upscale", pictures[0], "-m", "fast", *size)
    assert opened == [box / f"fast-x{network}"] * 2


def test_a_bundle_in_this_folder_is_taken_and_told(invoke: Invoke, box: Path, pictures: list[Path]) -> None:
    shutil.copytree(box / "plain-x2", "fast")
    told = "note: fast is what is called so in this folder, not the network in the box"
    result = invoke("upscale", pictures[0], "-m", "fast", "-o", "out/")
    assert (result.exit_code, told in result.stderr) == (0, True)
    for model in ([], ["-m", "./fast"], ["-m", "fast-x2"]):
        result = invoke("upscale", pictures[0], *model, "-o", "again/", "--overwrite")
        assert (result.exit_code, "note:" in result.stderr) == (0, False)


def test_no_name_and_nothing_in_the_box(
    invoke: Invoke, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    result = invoke("upscale", pictures[0])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "fast: no network of that name in the box; this installation has none: name a bundle" in result.stderr
