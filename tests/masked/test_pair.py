"""Two networks on one image. Time is a stand-in's, so that nothing depends on how fast the machine is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy import Upscaler
from sr_deploy.batch.folder import upscale_files
from sr_deploy.errors import UsageError
from sr_deploy.masked import pair as pairs
from sr_deploy.masked.masked_upscaler import MaskedUpscaler
from sr_deploy.masked.pair import PairUpscaler
from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.graphs import image_graph, save
from tests.upscaling.gpu.test_frames import photo

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=2), tmp_path, "base.onnx")


@pytest.fixture
def refine(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=4, gain=0.9), tmp_path, "refine.onnx")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel costs the base network 1, the refine network 5 seconds, a window 50 in both."""

    class Clock:
        now = 0.0

        @staticmethod
        def perf_counter() -> float:
            return Clock.now

    def charged(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_tiles(upscaler: Upscaler, pixels: Array, tiling: Any, tiles: Any, **options: Any) -> Any:
            for result in run(upscaler, pixels, tiling, tiles, **options):
                tall, wide = tiling.window
                Clock.now += 50 + tall * wide * (5 if upscaler.card.name == "refine" else 1)
                yield result

        return run_tiles

    def charged_whole(run: Callable[..., Array]) -> Callable[..., Array]:
        def upscale_pixels(upscaler: Upscaler, pixels: Array, *rest: Any) -> Array:
            Clock.now += 50 + pixels.shape[0] * pixels.shape[1] * (5 if upscaler.card.name == "refine" else 1)
            return run(upscaler, pixels, *rest)

        return upscale_pixels

    monkeypatch.setattr(pairs, "time", Clock)
    monkeypatch.setattr(Upscaler, "upscale_pixels", charged_whole(Upscaler.upscale_pixels))
    monkeypatch.setattr(Upscaler, "_run_tiles", charged(Upscaler._run_tiles))


def picture() -> Array:
    """Smooth, with much detail in one corner."""
    image = np.add.outer(np.linspace(40, 200, 300), np.linspace(0, 30, 400))[..., None].repeat(3, axis=2)
    image[:150, :160] += np.random.default_rng(1).normal(0, 30, (150, 160, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def whole(model: Path, image: Array) -> Array:
    with Upscaler(model, backend="onnxruntime", precision="fp32", tile=0) as upscale:
        return upscale(image)


def pair(base: Path, refine: Path, budget: float) -> MaskedUpscaler:
    return MaskedUpscaler(base=base, refine=refine, budget=budget, backend="onnxruntime", precision="fp32")


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_the_time_is_kept_and_every_pixel_comes_from_one_of_the_two(base: Path, refine: Path, budget: float) -> None:
    image = picture()
    by_base, by_refine = whole(base, image), whole(refine, image)
    with pair(base, refine, budget) as upscale:
        large = upscale(image)
        stats = upscale.stats
    assert large.shape == (600, 800, 3)
    refined = (large == by_refine).all(axis=2)
    restored = (large == by_base).all(axis=2)
    if budget > 0.25:
        everything = 50 + 300 * 400 * 5
        if budget < 1:
            assert stats.base_seconds + stats.refine_seconds <= budget * everything
            assert stats.base_seconds + stats.refine_seconds >= 0.9 * budget * everything
        assert refined.mean() >= stats.share - 0.02
        assert refined[:300, :320].mean() > 0.5 or budget < 0.4
    else:
        assert stats.share == 0
    near = np.abs(large.astype(int) - by_refine).max(axis=2) <= 2
    assert (refined | restored | near).mean() > 0.99
    assert (stats.recomputed, stats.replaced) == (0, 0)


def test_the_most_detailed_part_comes_first(base: Path, refine: Path) -> None:
    image = picture()
    by_refine = whole(refine, image)
    with pair(base, refine, 0.45) as upscale:
        large = upscale(image)
        heat = upscale.heat(image)
    close = np.abs(large.astype(int) - by_refine).max(axis=2) == 0
    assert close[:300, :320].mean() > 2 * close[320:, 340:].mean()
    assert heat.shape == (300, 400) and heat[:150, :160].mean() > 3 * heat[160:, 200:].mean()


@pytest.mark.parametrize("shape", [(1, 1, 3), (6, 500, 3), (500, 6, 3), (33, 47, 3), (70, 64), (90, 80, 4), (90, 80, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_size_and_form_is_taken(base: Path, refine: Path, shape: tuple[int, ...], dtype: str) -> None:
    image = np.random.default_rng(2).random(shape)
    values = image.astype(np.float32) if dtype == "float32" else (image * np.iinfo(dtype).max).astype(dtype)
    with pair(base, refine, 0.6) as upscale:
        large = upscale(values)
    assert large.dtype == values.dtype and large.shape == (2 * shape[0], 2 * shape[1], *shape[2:])


def test_the_same_selection_gives_the_same_bits(base: Path, refine: Path) -> None:
    with pair(base, refine, 0.5) as upscale:
        np.testing.assert_array_equal(upscale(picture()), upscale(picture()))


def test_progress_and_counts_know_nothing_of_the_trials(base: Path, refine: Path) -> None:
    told: list[tuple[int, int]] = []
    with pair(base, refine, 0.5) as upscale:
        upscale(picture(), progress=lambda done, total: told.append((done, total)))
        assert told[-1] == (len(told), len(told)) and len(told) <= upscale.stats.tiles <= len(told) + 1
        assert upscale.stats.pixels == 300 * 400


def test_a_folder_takes_a_pair_as_any_upscaler(base: Path, refine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(2):
        write_image(folder / f"é {seed}.png", Picture(photo(80, 90 + seed, seed)))
    with pair(base, refine, 0.5) as upscale:
        summary = upscale_files([folder], tmp_path / "out", upscale)  # type: ignore[arg-type]
    assert len(summary.done) == 2 and not summary.failed
    assert {read_image(path).pixels.shape for path in summary.done} == {(160, 180, 3), (160, 182, 3)}


def test_networks_that_do_not_fit_together_are_refused(base: Path, refine: Path, tmp_path: Path) -> None:
    other = save(image_graph(scale=3), tmp_path, "three.onnx")
    with pytest.raises(UsageError, match="one scale"):
        pair(base, other, 0.5)
    for budget in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(UsageError, match="budget"):
            pair(base, refine, budget)
    with pytest.raises(UsageError, match="base, refine and budget"):
        MaskedUpscaler(base=base, refine=refine)
    assert PairUpscaler.__doc__


@pytest.mark.parametrize("tile", [32, 50, 130])
def test_windows_are_no_larger_than_the_tiles_of_the_networks(base: Path, refine: Path, tile: int) -> None:
    image = picture()
    with MaskedUpscaler(base=base, refine=refine, budget=0.9, backend="onnxruntime", precision="fp32", tile=tile) as upscale:
        large = upscale(image)
        assert upscale.stats.share > 0.5
    near = np.abs(large.astype(int) - whole(refine, image)).max(axis=2) <= 2
    by_base = np.abs(large.astype(int) - whole(base, image)).max(axis=2) <= 2
    assert (near | by_base).mean() > 0.99


def test_engines_settle_on_a_large_first_image_and_where_one_size_comes_again(
    base: Path, refine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[tuple[str, tuple[int, int]]] = []
    monkeypatch.setattr(Upscaler, "_settle", lambda network, tiling: settled.append((network.card.name, tiling.window)))
    image = picture()
    low = image[:290].copy()
    monkeypatch.setattr(pairs, "_SETTLED_AT", 2 * 290 * 400)
    with pair(base, refine, 0.5) as upscale:
        for pixels in (image, low, image, low):
            upscale(pixels)
        assert not settled
        first = upscale(low), upscale(image), upscale(image)
        assert len(settled) == 8 and {name for name, _ in settled} == {"base", "refine"}
        upscale(low)
        upscale(image)
        assert len(settled) == 8
        assert all(max(window) <= 136 for _, window in settled)
    np.testing.assert_array_equal(first[1], first[2])
    monkeypatch.setattr(pairs, "_LARGE", 300 * 400)
    with pair(base, refine, 0.5) as upscale:
        upscale(image)
        assert len(settled) == 12
        upscale(image[:, 1:].copy())
        upscale(image)
        assert len(settled) == 12
