from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sr_deploy.arrays import Array
from sr_deploy.engines.mask_guided import MaskGuidedEngine
from sr_deploy.masked.masked_upscaler import MaskedUpscaler, write_heat
from sr_deploy.pictures.color import bleed
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.graphs import image_graph, masked_bundle, save
from tests.upscaling.gpu.test_frames import photo

Invoke = Callable[..., Result]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "é 漢字.png"
    write_image(path, Picture(photo(90, 70)))
    return path


def test_a_pair_writes_the_picture_and_what_comes_first(invoke: Invoke, tmp_path: Path, picture: Path) -> None:
    base = save(image_graph(scale=2), tmp_path, "base.onnx")
    refine = save(image_graph(scale=2, depth=4), tmp_path, "refine.onnx")
    out, masks = tmp_path / "out.png", tmp_path / "masks"
    pair = ["--base", base, "--refine", refine, "--budget", "60%"]
    result = invoke("upscale", picture, *pair, "--mask-out", masks, "-o", out, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["network"] == "refine" and 0 <= document["refined"] <= 1
    assert read_image(out).pixels.shape == (180, 140, 3)
    heat = read_image(masks / picture.name).pixels
    assert heat.shape == (180, 140, 1) and np.ptp(heat) > 0


@pytest.fixture
def guided(tmp_path: Path) -> Path:
    folder = tmp_path / "guided"
    folder.mkdir()
    return masked_bundle(folder).folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each image that a mask-guided network runs on."""
    seen: list[tuple[int, ...]] = []
    run = MaskGuidedEngine._run

    def noted(self: MaskGuidedEngine, feeds: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(next(iter(feeds.values())).shape)
        return run(self, feeds)

    monkeypatch.setattr(MaskGuidedEngine, "_run", noted)
    return seen


@pytest.mark.parametrize("alpha", [False, True])
def test_maps_come_from_the_run_itself(
    invoke: Invoke, tmp_path: Path, guided: Path, runs: list[tuple[int, ...]], alpha: bool
) -> None:
    pixels = photo(90, 70)
    ramp = np.linspace(0, 255, 90 * 70).reshape(90, 70).astype(np.uint8)
    write_image(tmp_path / "a.png", Picture(pixels, alpha=ramp if alpha else None))
    with MaskedUpscaler(guided, k=0.2, backend="onnxruntime") as upscale:
        write_heat(tmp_path / "expected.png", upscale.heat(bleed(pixels, ramp) if alpha else pixels), 2)
    runs.clear()
    command = ("upscale", tmp_path / "a.png", "-m", guided, "--backend", "onnxruntime", "--mask-out", tmp_path / "masks")
    result = invoke(*command, "-o", tmp_path / "out.png")
    assert (result.exit_code, len(runs)) == (0, 2 if alpha else 1), result.stderr
    expected, mask = read_image(tmp_path / "expected.png").pixels, tmp_path / "masks" / "a.png"
    np.testing.assert_array_equal(read_image(mask).pixels, expected)
    assert np.ptp(expected) > 0


def test_a_picture_that_was_done_before_gets_its_map(
    invoke: Invoke, tmp_path: Path, picture: Path, guided: Path, runs: list[tuple[int, ...]]
) -> None:
    command = ("upscale", picture, "-m", guided, "--backend", "onnxruntime", "-o", tmp_path / "out.png")
    for number, masks in enumerate(((), ("--mask-out", tmp_path / "masks"))):
        assert invoke(*command, *masks).exit_code == 0
        assert len(runs) == number + 1
    assert np.ptp(read_image(tmp_path / "masks" / picture.name).pixels) > 0


def test_a_map_that_cannot_be_written_costs_no_picture(invoke: Invoke, tmp_path: Path, picture: Path, guided: Path) -> None:
    (tmp_path / "masks").write_bytes(b"")
    arguments = ("-m", guided, "--mask-out", tmp_path / "masks", "-o", tmp_path / "out.png")
    result = invoke("upscale", picture, *arguments)
    assert (result.exit_code, "note: no map of" in result.stderr) == (0, True), result.stderr
    assert read_image(tmp_path / "out.png").pixels.shape == (180, 140, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "fast"], "A pair is --base and --refine"),
        (["--budget", "much"], "no share"),
        (["-k", "few"], "neither a number of patches"),
    ],
)
def test_options_that_do_not_go_together_are_refused(invoke: Invoke, picture: Path, arguments: list[str], message: str) -> None:
    result = invoke("upscale", picture, *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_a_plain_network_has_no_patches_to_choose(invoke: Invoke, tmp_path: Path, picture: Path) -> None:
    result = invoke("upscale", picture, "-m", save(image_graph(), tmp_path, "plain.onnx"), "-k", "20%")
    assert result.exit_code == 2 and "no mask-guided network" in result.stderr
