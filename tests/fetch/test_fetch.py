"""From a recipe to a bundle in the user's data folder, which its name then means."""

from __future__ import annotations

import io
import re
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sr_deploy.export
from sr_deploy import FetchError, MissingDependencyError, Upscaler, UsageError, fetch, models
from sr_deploy.bundle import Bundle
from sr_deploy.fetch import Fetched
from sr_deploy.models import resolve
from tests.fetch.conftest import PATH, Serve, make_bundle, write_recipe
from tests.video.server import Served

WEIGHTS = bytes(range(256)) * 400


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FOR_EXPORT", ("no_torch",))


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(WEIGHTS)


@pytest.fixture
def recipe(served: Served, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.toml", WEIGHTS, download=served.url(PATH))


def zipped(bundle: Path) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for path in bundle.iterdir():
            files.write(path, path.name)
    return archive.getvalue()


def test_a_network_is_fetched_once_and_known_by_its_name(
    recipe: Path, served: Served, data: Path, exported: list[Path]
) -> None:
    told: list[str] = []
    first = fetch.fetch(recipe, say=told.append)
    checkpoint, bundle = data / "checkpoints" / "tiny" / "weights.pth", data / "models" / "tiny"
    assert (first.bundle, first.checkpoint, first.new) == (bundle, checkpoint, True)
    assert checkpoint.read_bytes() == WEIGHTS and exported == [checkpoint]
    assert told == [f"fetching {served.url(PATH)}, 0.10 MB, license MIT"]
    assert not fetch.fetch(recipe).new and len(served.seen) == 1
    assert models.fetched() == ("tiny",) and resolve("tiny") == resolve(Path("tiny")) == bundle
    with Upscaler("tiny") as upscale:
        assert upscale(np.zeros((4, 4, 3), np.uint8)).shape == (16, 16, 3)


@pytest.mark.usefixtures("data", "exported")
def test_a_folder_of_results_does_not_hide_it(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = fetch.fetch(recipe)
    Path("tiny").mkdir()
    assert resolve("tiny") == found.bundle and resolve("./tiny") == Path("tiny")
    shutil.rmtree("tiny")
    make_bundle(Path("tiny"), WEIGHTS)
    assert resolve("tiny") == Path("tiny")


def test_a_bundle_that_was_changed_is_made_again(recipe: Path, served: Served, exported: list[Path], data: Path) -> None:
    bundle = fetch.fetch(recipe).bundle
    (bundle / "fp32.onnx").write_bytes(b"")
    assert fetch.fetch(recipe).new and len(exported) == 2
    write_recipe(recipe, WEIGHTS + b"2", download=served.url(PATH))
    served.data = WEIGHTS + b"2"
    assert fetch.fetch(recipe).new and len(exported) == 3
    assert (data / "checkpoints" / "tiny" / "weights.pth").read_bytes() == WEIGHTS + b"2"


@pytest.mark.usefixtures("exported")
def test_a_license_that_asks_is_agreed_to(served: Served, data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", WEIGHTS, download=served.url(PATH), license="CC-BY-NC-SA-4.0")
    with pytest.raises(UsageError, match=r"^tiny: its license, 'CC-BY-NC-SA-4\.0', .* https://example\.org/tiny, .* --yes$"):
        fetch.fetch(recipe)
    assert served.seen == [] and not (data / "models").exists()
    assert fetch.fetch(recipe, agreed=True).new
    assert not fetch.fetch(recipe).new


def test_what_has_no_address_says_where_it_is_and_belongs(data: Path, tmp_path: Path, exported: list[Path]) -> None:
    recipe, place = write_recipe(tmp_path / "tiny.toml", WEIGHTS), data / "checkpoints" / "tiny"
    expected = f"get weights.pth from https://example.org/tiny, put it into {place}, and run this again"
    with pytest.raises(FetchError, match=re.escape(expected)):
        fetch.fetch(recipe)
    (place / "weights.pth").write_bytes(WEIGHTS)
    assert fetch.fetch(recipe).new and exported == [place / "weights.pth"]


def test_offline_it_says_where_it_would_have_come_from(data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", WEIGHTS, download="https://127.0.0.1:1/weights.pth")
    with pytest.raises(FetchError) as caught:
        fetch.fetch(recipe)
    message = str(caught.value)
    assert message.startswith("https://127.0.0.1:1/weights.pth: cannot be fetched (Connection refused); 0 of 102400 bytes")
    assert (
        f"put weights.pth (102400 bytes, sha256 {fetch.read_recipe(recipe).sha256}) into {data / 'checkpoints/tiny'}" in message
    )


@pytest.mark.usefixtures("without_torch")
def test_without_torch_the_checkpoint_stays_for_later(
    recipe: Path, served: Served, data: Path, exported: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = data / "checkpoints" / "tiny" / "weights.pth"
    with pytest.raises(MissingDependencyError, match=rf"^{checkpoint}: is there, and export needs torch; .*\[export\]"):
        fetch.fetch(recipe)
    monkeypatch.setattr(fetch, "_FOR_EXPORT", ())
    assert fetch.fetch(recipe).new and exported == [checkpoint] and len(served.seen) == 1


@pytest.mark.usefixtures("without_torch")
def test_without_torch_a_ready_bundle_comes(serve: Serve, data: Path, tmp_path: Path) -> None:
    archive = zipped(make_bundle(tmp_path / "made", WEIGHTS).folder)
    served = serve(archive)
    recipe = write_recipe(tmp_path / "tiny.toml", WEIGHTS, bundle=(served.url(PATH), archive))
    found = fetch.fetch(recipe)
    assert (found.bundle, found.checkpoint, found.new) == (data / "models" / "tiny", None, True)
    assert [path.name for path in (data / "checkpoints" / "tiny").iterdir()] == ["lock"]
    assert not fetch.fetch(recipe).new


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("weights", [None, b"others"])
def test_a_ready_bundle_that_is_none_is_refused(serve: Serve, data: Path, tmp_path: Path, weights: bytes | None) -> None:
    archive = b"no zip" if weights is None else zipped(make_bundle(tmp_path / "made", weights).folder)
    served = serve(archive)
    recipe = write_recipe(tmp_path / "tiny.toml", WEIGHTS, bundle=(served.url(PATH), archive))
    with pytest.raises(FetchError, match=r"^tiny\.zip: not the bundle of 'tiny' \("):
        fetch.fetch(recipe)
    assert models.fetched() == ()
    assert [path.name for path in (data / "checkpoints" / "tiny").iterdir()] == ["lock"]


@pytest.mark.usefixtures("data")
def test_two_at_once_fetch_it_once(recipe: Path, served: Served, exported: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    waits, found, told = threading.Event(), list[Fetched](), list[str]()
    make = sr_deploy.export.export_bundle

    def export(*arguments: Any, **options: Any) -> Bundle:
        assert waits.wait(30)
        return make(*arguments, **options)

    def say(text: str) -> None:
        told.append(text)
        if "waiting" in text:
            waits.set()

    monkeypatch.setattr(sr_deploy.export, "export_bundle", export)
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch(recipe, say=say))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.new for one in found) == [False, True] and len(exported) == len(served.seen) == 1
    assert told.count("tiny: another process fetches it; waiting for it") == 1


@pytest.mark.parametrize("changed", [{"name": "../tiny"}, {"name": ".."}, {"checkpoint": "/weights.pth"}, {"name": ""}])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, data: Path, changed: dict[str, str]) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", WEIGHTS, **changed)
    with pytest.raises(UsageError, match="is no name for a file"):
        fetch.fetch(recipe)
    assert not data.exists()


@pytest.mark.usefixtures("data")
def test_a_published_network_that_is_not_there_yet_is_offered() -> None:
    with pytest.raises(UsageError, match=r"^rlfn_x4: is published, and not fetched yet; `sr-deploy fetch rlfn_x4` "):
        resolve("rlfn_x4")
    with pytest.raises(UsageError, match=r"; did you mean 'rlfn_x4'\?$"):
        resolve("rlnf_x4")
    with pytest.raises(UsageError, match=r"no recipe of that name; did you mean 'rlfn_x4'\?$"):
        fetch.fetch("rlnf_x4")


def test_a_data_folder_that_cannot_be_written(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        with pytest.raises(FetchError, match=r"cannot be written \(.*\); point XDG_DATA_HOME to another folder"):
            fetch.fetch(recipe)


@pytest.mark.usefixtures("data")
def test_a_published_checkpoint_becomes_a_bundle(shared: Path, serve: Serve, tmp_path: Path) -> None:
    weights = (shared / "checkpoints" / "ECBSR_M4C16_x2.pth").read_bytes()
    served = serve(weights)
    text = (Path(__file__).parents[2] / "export" / "ecbsr_m4c16_x2.toml").read_text(encoding="utf-8")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(re.sub('^download = ".*"', f'download = "{served.url(PATH)}"', text, flags=re.M), encoding="utf-8")
    fetch.fetch(recipe)
    card = Bundle.open(resolve("ecbsr_m4c16_x2")).card
    assert (card.name, card.source and card.source.recipe) == ("ecbsr_m4c16_x2", "ecbsr_m4c16_x2")
