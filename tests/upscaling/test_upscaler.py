from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from sr_deploy import Upscaler
from sr_deploy.card import GRAPH_METADATA_KEY, ModelCard
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.errors import BackendUnavailableError, OutOfMemoryError, UnhealthyOutputError, UsageError
from sr_deploy.pictures.image import Metadata, Picture
from sr_deploy.pictures.size import TargetSize
from sr_deploy.upscaling import sentinel as windows
from tests.graphs import image_graph, save

RANDOM = np.random.default_rng(5)
PHOTO = np.clip(
    np.add.outer(np.linspace(20, 200, 90), np.linspace(0, 50, 120))[..., None] + RANDOM.normal(0, 20, (90, 120, 3)), 0, 255
).astype(np.uint8)


def reference(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """(H,W,3) in [0,1] through ONNX's own evaluator, float."""
    x = image.transpose(2, 0, 1)[None].astype(np.float32)
    return ReferenceEvaluator(model).run(None, {"input": x})[0][0].transpose(1, 2, 0)


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=4), tmp_path, "exact.onnx")


@pytest.fixture
def approximate(tmp_path: Path) -> Path:
    return save(image_graph(scale=2, depth=2, pooled=True), tmp_path, "approximate.onnx")


@pytest.mark.parametrize(
    ("dtype", "full_scale", "tolerance"), [(np.uint8, 255, 1), (np.uint16, 65535, 2), (np.float32, 1, 1e-5)]
)
def test_every_depth_gives_what_the_graph_gives(exact: Path, dtype: type, full_scale: int, tolerance: float) -> None:
    image = (PHOTO / 255 * full_scale).astype(dtype)
    with Upscaler(exact, precision="fp32") as upscale:
        large = upscale(image)
    assert (large.shape, large.dtype) == ((180, 240, 3), dtype)
    assert large.flags.c_contiguous
    expected = reference(image_graph(scale=2, depth=4), image.astype(np.float64) / full_scale) * full_scale
    assert np.abs(large - expected).max() <= tolerance


def test_each_thread_has_stats_of_its_own(exact: Path) -> None:
    with Upscaler(exact, tile=32) as upscale:
        found: dict[int, Any] = {}

        def run(side: int) -> None:
            upscale(np.zeros((side, side, 3), np.uint8))
            found[side] = upscale.stats_of_thread

        threads = [threading.Thread(target=run, args=(side,)) for side in (20, 90)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found[20].tiles == 1 < found[90].tiles
        assert found[20] + found[90] == upscale.stats and upscale.stats_of_thread.tiles == 0


def test_sixteen_bits_are_not_eight_bits_in_disguise(exact: Path) -> None:
    ramp = np.repeat(np.arange(20_000, 20_100, dtype=np.uint16)[None, :, None], 16, axis=0).repeat(3, axis=2)
    with Upscaler(exact) as upscale:
        assert len(np.unique(upscale(ramp)[8, 16:-16, 0])) > 60


@pytest.mark.parametrize("tile", [32, 40, 64])
def test_an_exact_network_is_the_same_in_tiles(exact: Path, tile: int) -> None:
    with Upscaler(exact, precision="fp32", tile=0) as whole, Upscaler(exact, precision="fp32", tile=tile) as tiled:
        np.testing.assert_array_equal(tiled(PHOTO), whole(PHOTO))
        assert tiled.stats.tiles > whole.stats.tiles == 1


def test_an_approximate_network_is_blended_without_seams(approximate: Path) -> None:
    flat = np.full((300, 310, 3), 120, np.uint8)
    flat[:, 155:] = 140
    with Upscaler(approximate, precision="fp32", tile=0) as whole, Upscaler(approximate, precision="fp32", tile=64) as tiled:
        assert tiled.card.tiling == "approximate"
        large, expected = tiled(flat).astype(int), whole(flat).astype(int)
    assert np.abs(large - expected).max() < 12
    assert np.abs(np.diff(large, axis=0)[20:-20]).max() <= 2


def test_out_of_memory_shrinks_the_tile_and_tries_again(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = windows.WindowRunner.run
    areas: list[int] = []

    def run(self: windows.WindowRunner, window: np.ndarray, *, top: int, left: int) -> object:
        areas.append(window.shape[0] * window.shape[1])
        if areas[-1] > 4000:
            raise OutOfMemoryError("out of memory")
        return original(self, window, top=top, left=left)

    with Upscaler(exact, precision="fp32") as upscale:
        expected = upscale(PHOTO)
        monkeypatch.setattr(windows.WindowRunner, "run", run)
        np.testing.assert_array_equal(upscale(PHOTO), expected)
    assert areas[0] == 90 * 120
    assert areas[-1] <= 4000


def test_out_of_memory_at_the_smallest_tile_is_told(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows.WindowRunner, "run", Mock(side_effect=OutOfMemoryError("openvino: out of memory")))
    with Upscaler(exact) as upscale, pytest.raises(OutOfMemoryError):
        upscale(PHOTO)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (3, 1, 3), (2, 2), (5, 7, 1), (6, 5, 2), (6, 5, 4)])
def test_every_shape_comes_out_in_its_own_form(exact: Path, approximate: Path, shape: tuple[int, ...]) -> None:
    image = RANDOM.integers(60, 200, shape, dtype=np.uint8)
    for model in (exact, approximate):
        with Upscaler(model) as upscale:
            assert upscale(image).shape == (shape[0] * 2, shape[1] * 2, *shape[2:])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros(4, np.uint8)]
)
def test_other_shapes_and_dtypes_are_refused(exact: Path, image: np.ndarray) -> None:
    with Upscaler(exact) as upscale, pytest.raises(UsageError, match="cannot be upscaled; expected"):
        upscale(image)


def test_floats_beyond_one_are_not_clipped(exact: Path) -> None:
    image = PHOTO.astype(np.float32) / 64
    with Upscaler(exact) as upscale:
        large = upscale(image)
        assert large.max() > 2
        assert abs(large.mean() - image.mean()) < 0.1
        image[0, 0, 0] = np.nan
        with pytest.raises(UsageError, match="NaN"):
            upscale(image)


def test_a_luma_network_keeps_the_colors(tmp_path: Path) -> None:
    path = save(image_graph(channels=1), tmp_path, "luma.onnx")
    color = np.broadcast_to(np.array([200, 60, 30], np.uint8), (20, 24, 3)).copy()
    with Upscaler(path) as upscale:
        large = upscale(color)
        assert upscale(color[..., 0]).shape == (40, 48)
    center = large[10:-10, 10:-10].reshape(-1, 3).mean(axis=0)
    assert center[0] - center[2] == pytest.approx(170, abs=12)


@pytest.mark.parametrize("tile", [32, 40])
def test_a_luma_network_is_the_same_in_tiles_however_small_its_reach(tmp_path: Path, tile: int) -> None:
    path = save(image_graph(channels=1, depth=0), tmp_path, "luma.onnx")
    for image in (PHOTO, PHOTO.astype(np.uint16) * np.uint16(257)):
        with Upscaler(path, tile=0) as whole, Upscaler(path, tile=tile) as tiled:
            difference = np.abs(tiled(image).astype(int) - whole(image))
            assert tiled.stats.tiles > 1
        assert difference.max() <= np.iinfo(image.dtype).max // 255


def test_alpha_is_upscaled_and_hidden_colors_do_not_bleed(exact: Path) -> None:
    image = np.zeros((40, 40, 4), np.uint8)
    image[10:30, 10:30] = (220, 220, 220, 255)
    with Upscaler(exact, precision="fp32") as upscale:
        large = upscale(image)
        opaque = upscale(np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)]))
        np.testing.assert_array_equal(opaque[..., :3], upscale(PHOTO))
    visible = large[..., 3] > 127
    assert large[visible][:, :3].min() > 190
    assert (opaque[..., 3] == 255).all()


def test_a_picture_is_resampled_to_the_size_asked_for(exact: Path) -> None:
    picture = Picture(PHOTO, None, Metadata(None, None, None), "png")
    with Upscaler(exact) as upscale:
        assert upscale.upscale_picture(picture, size=TargetSize.parse("long=200")).pixels.shape == (150, 200, 3)
        assert upscale.upscale_picture(picture).pixels.shape == (180, 240, 3)


def test_progress_counts_the_windows(exact: Path) -> None:
    calls: list[tuple[int, int]] = []
    with Upscaler(exact, tile=40) as upscale:
        upscale(PHOTO, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(index + 1, len(calls)) for index in range(len(calls))]
    assert len(calls) > 1


def test_two_threads_share_an_upscaler(exact: Path) -> None:
    images = [np.roll(PHOTO, 7 * index, axis=1) for index in range(6)]
    with Upscaler(exact, tile=40) as upscale:
        expected = [upscale(image) for image in images]
        results: dict[int, np.ndarray] = {}

        def work(index: int) -> None:
            results[index] = upscale(images[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, wanted in enumerate(expected):
        np.testing.assert_array_equal(results[index], wanted)


def poisoned_fp16(tmp_path: Path, *, fp32_too: bool) -> Path:
    """A bundle whose fp16 graph gives NaN on every pixel, and whose fp32 graph does if `fp32_too`."""
    from sr_deploy.bundle import Bundle, sha256_of
    from sr_deploy.card import GraphCard, ModelCard

    graphs = {}
    for precision, float_type in (("fp32", onnx.TensorProto.FLOAT), ("fp16", onnx.TensorProto.FLOAT16)):
        model = image_graph(float_type=float_type)
        if precision == "fp16" or fp32_too:
            bias = next(tensor for tensor in model.graph.initializer if tensor.name == "last.bias")
            values = onnx.numpy_helper.to_array(bias).copy()
            values[3] = np.nan
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        path = save(model, tmp_path, f"{precision}.onnx")
        graphs[precision] = GraphCard(path.name, precision, sha256_of(path), 20)
    Bundle(tmp_path, ModelCard("poisoned", "test", 2, 3, tiling="exact", halo=3, activation_bytes=100), graphs).write_card()
    return tmp_path


def test_the_sentinel_recomputes_bad_pixels_in_fp32_and_counts_them(tmp_path: Path) -> None:
    folder = poisoned_fp16(tmp_path, fp32_too=False)
    with Upscaler(folder, backend="onnxruntime", precision="fp16", tile=40) as upscale:
        large = upscale(PHOTO)
        assert upscale.stats.recomputed == upscale.stats.tiles > 1
        assert upscale.stats.replaced == 0
    with Upscaler(folder, backend="onnxruntime", precision="fp32") as upscale:
        np.testing.assert_array_equal(large, upscale(PHOTO))
        assert upscale.stats.recomputed == 0


def test_what_fails_in_fp32_too_is_an_error_with_the_box_or_bicubic(tmp_path: Path) -> None:
    import cv2

    folder = poisoned_fp16(tmp_path, fp32_too=True)
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        image = PHOTO.astype(dtype) * dtype(factor)
        with (
            Upscaler(folder, backend="onnxruntime", precision="fp16") as upscale,
            pytest.raises(UnhealthyOutputError, match=r"fp16 and fp32 for the tile x=0 y=0 120x90; .*on_failure='bicubic'"),
        ):
            upscale(image)
        with Upscaler(folder, backend="onnxruntime", precision="fp16", on_failure="bicubic") as upscale:
            np.testing.assert_array_equal(upscale(image), cv2.resize(image, (240, 180), interpolation=cv2.INTER_CUBIC))
            assert upscale.stats.replaced == 1


@pytest.mark.parametrize("gain", [0.05, 12.0])
def test_collapse_and_divergence_are_caught_although_every_pixel_is_finite(tmp_path: Path, gain: float) -> None:
    model = image_graph(gain=gain)
    onnx.helper.set_model_props(model, {GRAPH_METADATA_KEY: ModelCard("net", "test", 2, 3).to_json()})
    path = save(model, tmp_path)
    with Upscaler(path) as upscale:
        with pytest.raises(UnhealthyOutputError):
            upscale(PHOTO)
        upscale(np.zeros_like(PHOTO))


def test_a_tile_that_cannot_be_is_refused(exact: Path) -> None:
    with pytest.raises(UsageError, match="a tile of 8 pixels is too small"):
        Upscaler(exact, tile=8)


NONE = Survey(problem="no driver", remedy="install it")
ONE = Survey((GPU("one", "8.9"),))


@pytest.mark.parametrize(
    ("found", "gpus", "words"),
    [
        (NONE, (0,), "GPU 0 is asked for, and no driver; install it, or name no GPU"),
        (NONE, (3,), "GPU 3 is asked for"),
        (ONE, (3,), r"no GPU 3 on this machine; expected 0 \(one\)"),
        (ONE, (0, 1), "no GPU 1"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"allow_cpu": True}, {"backend": "openvino"}])
def test_gpus_by_number_must_be_there(
    exact: Path, found: Survey, gpus: tuple[int, ...], words: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)
    with pytest.raises(BackendUnavailableError, match=words):
        Upscaler(exact, gpus=gpus, **options)


@pytest.mark.parametrize("gpus", [(), (-1,), (0, 0)])
def test_numbers_that_are_none_of_gpus(exact: Path, gpus: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected numbers from 0, each once"):
        Upscaler(exact, gpus=gpus)


def test_a_backend_of_the_cpu_and_gpus_do_not_go_together(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: ONE)
    with pytest.raises(UsageError, match="'openvino' runs on the CPU, and GPUs are asked for"):
        Upscaler(exact, backend="openvino", gpus=(0,))


def test_without_a_number_the_cpu_is_taken_where_there_is_no_gpu(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: NONE)
    with Upscaler(exact) as upscale:
        assert "openvino" in upscale.description
