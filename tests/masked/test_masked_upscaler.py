"""Mask-guided networks from an image to its pixels, on the host and on Warp's CPU device; and who opens them how."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from sr_deploy import Upscaler
from sr_deploy.bundle import Bundle, sha256_of
from sr_deploy.card import GraphCard, Masked, ModelCard
from sr_deploy.engines import select_backend
from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.function import FunctionEngine
from sr_deploy.engines.mask_guided import Amount, MaskGuidedEngine, select_patches
from sr_deploy.engines.pixels import FEATURES, HEALTH, INPUT, OUTPUT, PATCHES, SCORES
from sr_deploy.errors import BundleError, UsageError
from sr_deploy.masked.masked_upscaler import MaskedUpscaler, write_heat
from sr_deploy.pictures.image import read_image
from sr_deploy.upscaling import upscaler as upscaler_module
from sr_deploy.upscaling.gpu import frames as frames_module
from tests.upscaling.gpu.test_frames import Machine, MachineBackend, photo

Array = np.ndarray[Any, np.dtype[Any]]

BASE = """
<ir_version: 9, opset_import: ["" : 20]>
base (TYPE[N,3,H,W] input) => (TYPE[N,3,Y,X] coarse, TYPE[N,12,H,W] features, TYPE[N,1,h,w] scores)
{
  features = Conv<pads = [1,1,1,1]>(input, to_features)
  blocks = Conv<pads = [1,1,1,1]>(input, to_blocks)
  large = DepthToSpace<blocksize = 2, mode = "CRD">(blocks)
  coarse = Clip(large, zero, one)
  high = Conv<pads = [1,1,1,1]>(input, to_scores)
  edges = Abs(high)
  mean = ReduceMean(edges, channels)
  scores = AveragePool<kernel_shape = [4,4], strides = [4,4]>(mean)
}
"""
REFINE = """
<ir_version: 9, opset_import: ["" : 20]>
refine (TYPE[K,12,6,6] patches) => (TYPE[K,3,8,8] pixels)
{
  blocks = Conv(patches, to_pixels)
  large = DepthToSpace<blocksize = 2, mode = "CRD">(blocks)
  pixels = Clip(large, zero, one)
}
"""


def weights() -> dict[str, Array]:
    """Every output pixel is its LR pixel, and a little of what is around it."""
    random = np.random.default_rng(5)
    repeat = np.zeros((12, 3, 3, 3), np.float32)
    middle = np.zeros((12, 12, 3, 3), np.float32)
    for block in range(12):
        repeat[block, block // 4, 1, 1] = 1
        middle[block, block, 1, 1] = 1
    small = [random.normal(0, 0.02, shape).astype(np.float32) for shape in ((12, 3, 3, 3), (12, 12, 3, 3))]
    scores = random.normal(0, 1, (2, 3, 3, 3)).astype(np.float32)
    scores -= scores.mean(axis=(1, 2, 3), keepdims=True)
    return {"to_features": repeat, "to_blocks": repeat + small[0], "to_scores": scores, "to_pixels": middle + small[1]}


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small mask-guided network for x2, in fp32 and fp16."""
    folder = tmp_path_factory.mktemp("guided") / "guided"
    folder.mkdir()
    graphs = {}
    for precision, kind in (("fp32", "float"), ("fp16", "float16")):
        for part, text in (("base", BASE), ("refine", REFINE)):
            model = onnx.parser.parse_model(text.replace("TYPE", kind))
            named = {name for node in model.graph.node for name in node.input}
            constants = {**weights(), "zero": np.array(0.0), "one": np.array(1.0)}
            dtype = np.float32 if precision == "fp32" else np.float16
            model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "channels"))
            model.graph.initializer.extend(
                numpy_helper.from_array(value.astype(dtype), name) for name, value in constants.items() if name in named
            )
            path = folder / f"{part}-{precision}.onnx"
            onnx.save(model, path)
            graphs[path.stem] = GraphCard(path.name, precision, sha256_of(path), 20)
    card = ModelCard("guided", "test", 2, 3, size_multiple=4, halo=4, activation_bytes=100, masked=Masked(4, 1, 12))
    Bundle(folder, card, graphs).write_card()
    return folder


def conv(image: Array, kernel: Array) -> Array:
    """(C,H,W) with a border -> (D,H-2,W-2)"""
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
    return np.einsum("chwyx,dcyx->dhw", windows, kernel)


def shuffled(blocks: Array) -> Array:
    """(12,H,W) -> (2H,2W,3)"""
    _, height, width = blocks.shape
    return blocks.reshape(3, 2, 2, height, width).transpose(3, 1, 4, 2, 0).reshape(2 * height, 2 * width, 3)


def reference(image: Array, wanted: int) -> tuple[Array, list[int]]:
    """The same network in numpy: (H,W,3) in [0,1], and the numbers of the refined patches."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="symmetric").transpose(2, 0, 1).astype(np.float64)
    kernels = weights()
    bordered = np.pad(padded, ((0, 0), (1, 1), (1, 1)))
    large = shuffled(conv(bordered, kernels["to_blocks"]))
    features = np.pad(conv(bordered, kernels["to_features"]), ((0, 0), (1, 1), (1, 1)))
    refined = shuffled(conv(features, kernels["to_pixels"]))
    edges = np.abs(conv(bordered, kernels["to_scores"])).mean(axis=0)
    scores = edges.reshape(edges.shape[0] // 4, 4, -1, 4).mean(axis=(1, 3))
    chosen = sorted(np.argsort(-scores.ravel(), kind="stable")[:wanted].tolist())
    for number in chosen:
        row, column = divmod(number, scores.shape[1])
        place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        large[place] = refined[place]
    return np.clip(large[: 2 * height, : 2 * width], 0, 1), chosen


SIZES = [(40, 52), (41, 50), (4, 4), (1, 1), (3, 90), (120, 100)]


@pytest.mark.parametrize(
    ("backend", "k"),
    [*(("onnxruntime", k) for k in (0, 1, 7, 1000, 0.0, 0.3, 1.0)), ("openvino", 7)],
)
@pytest.mark.parametrize("size", SIZES)
def test_the_selected_patches_are_refined_in_place(guided: Path, backend: str, size: tuple[int, int], k: float) -> None:
    image = photo(*size)
    patches = -(-size[0] // 4) * -(-size[1] // 4)
    wanted = min(patches, k if isinstance(k, int) else round(k * patches))
    with MaskedUpscaler(guided, k=k, backend=backend, precision="fp32") as upscale:
        large, floats = upscale(image), upscale(image.astype(np.float32) / 255)
        assert upscale.stats.share == pytest.approx(wanted / patches)
        assert (upscale.stats.recomputed, upscale.stats.replaced) == (0, 0)
    expected, chosen = reference(image / 255, wanted)
    assert len(chosen) == wanted
    assert np.abs(large / 255 - expected).max() <= 0.5001 / 255
    np.testing.assert_allclose(floats, expected, atol=2e-6)


def test_every_form_of_image_is_taken(guided: Path) -> None:
    image = photo(21, 34)
    with MaskedUpscaler(guided, k=9, backend="onnxruntime", precision="fp32") as upscale:
        assert upscale.scale == 2 and upscale.bundle.card.name == "guided" and "9 patches" in upscale.description
        assert upscale(image[..., 0]).shape == (42, 68)
        deep = upscale(image.astype(np.uint16) * 257)
        np.testing.assert_allclose(deep / 65535, reference(image / 255, 9)[0], atol=2e-5)
        with_alpha = upscale(np.concatenate([image, image[..., :1]], axis=2))
        assert with_alpha.shape == (42, 68, 4)


def test_a_threshold_decides_by_the_scores(guided: Path) -> None:
    image = photo(40, 48)
    image[:20] = 128
    with MaskedUpscaler(guided, threshold=0.1, backend="onnxruntime", precision="fp32") as upscale:
        upscale(image)
        assert 0.4 < upscale.stats.share < 0.9
    for threshold, share in ((1e9, 0.0), (-1.0, 1.0)):
        with MaskedUpscaler(guided, threshold=threshold, backend="onnxruntime", precision="fp32") as upscale:
            upscale(image)
            assert upscale.stats.share == share


@given(
    arrays.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, np.nan, -np.inf])), st.data()
)
def test_of_equal_scores_the_earlier_are_selected(scores: Array, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, scores.size + 3))
    order = [index for index in np.argsort(-scores, kind="stable").tolist() if not np.isnan(scores[index])]
    assert select_patches(scores, Amount(count=wanted)).tolist() == sorted(order[:wanted])


def test_the_published_network_gives_its_golden_pixels(shared: Path) -> None:
    torch = pytest.importorskip("torch")
    from sr_deploy.architectures.mga import MGAConfig
    from sr_deploy.architectures.rfdn_mga import RFDNMGA

    golden = np.load(shared / "golden" / "rfdn_mga_x4.npz")
    network = RFDNMGA(MGAConfig(scale=4, colors=3)).eval()
    network.load_state_dict(torch.load(shared / "golden" / "rfdn_mga_x4.pth", weights_only=True))
    masked = Masked(4, 1, 50)

    def look(pixels: Array) -> tuple[Array, ...]:
        with torch.inference_mode():
            coarse, features, scores = network.look(torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2))
        return (*quantized(coarse), features.numpy(), scores.numpy())

    def refine(patches: Array) -> tuple[Array, ...]:
        with torch.inference_mode():
            return quantized(network.refine(torch.from_numpy(patches)))

    def quantized(planar: Any) -> tuple[Array, Array]:
        pixels = np.clip(np.round(planar.permute(0, 2, 3, 1).numpy() * 255), 0, 255).astype(np.uint8)
        brightness = pixels.reshape(len(pixels), -1).mean(axis=1) / 255  # the weights are random: nothing of it is sane
        return pixels, brightness.astype(np.float32)

    floats, integers = np.dtype(np.float32), np.dtype(np.uint8)
    image = TensorSpec(OUTPUT, integers, (-1, -1, -1, 3)), TensorSpec(HEALTH, floats, (-1,))
    beside = TensorSpec(FEATURES, floats, (-1, 50, -1, -1)), TensorSpec(SCORES, floats, (-1, 1, -1, -1))
    base = FunctionEngine(look, [TensorSpec(INPUT, integers, (-1, -1, -1, 3))], [*image, *beside])
    finer = FunctionEngine(refine, [TensorSpec(PATCHES, floats, (-1, 50, 6, 6))], image)
    engine = MaskGuidedEngine(base, finer, masked, Amount(count=golden["selected"].shape[1]))
    pixels = np.round(golden["x"] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    large = engine.run({INPUT: np.ascontiguousarray(pixels)})[OUTPUT]
    expected = np.round(np.clip(golden["y"], 0, 1) * 255).transpose(0, 2, 3, 1)
    assert np.abs(large - expected).max() <= 1
    chosen = select_patches(golden["mask"], Amount(count=24))
    assert {tuple(place) for place in golden["selected"][1:].T} == set(zip(*np.divmod(chosen, 13), strict=True))


def test_heat_is_highest_where_the_picture_has_edges(guided: Path, tmp_path: Path) -> None:
    image = np.full((30, 41, 3), 128, np.uint8)
    image[8:20, 16:28] = photo(12, 12)
    with MaskedUpscaler(guided, k=2, backend="onnxruntime") as upscale:
        heat = upscale.heat(image)
    assert heat.shape == (30, 41) and heat.dtype == np.float32 and (heat.min(), heat.max()) == (0, 1)
    assert heat[8:20, 16:28].mean() > 4 * heat[8:20, 32:].mean()
    write_heat(tmp_path / "é 漢字.png", heat, 2)
    assert read_image(tmp_path / "é 漢字.png").pixels.shape == (60, 82, 1)


# On a GPU -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.getbasetemp() / "warp"))
    machine = Machine()
    backend = MachineBackend("machine", "function", "cuda", "", machine=machine)
    monkeypatch.setattr(upscaler_module, "select_backend", lambda *_, **__: backend)
    monkeypatch.setattr(frames_module, "free_memory", lambda _: 1 << 30)
    yield machine


def host(model: Path, image: Array, **options: Any) -> Array:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_module, "select_backend", select_backend)
        with MaskedUpscaler(model, backend="onnxruntime", precision="fp32", **options) as upscale:
            return upscale(image)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("amount", [{"k": 0}, {"k": 7}, {"k": 0.6}, {"k": 1.0}, {"threshold": 0.1}])
def test_frames_on_a_device_equal_those_of_the_host(
    machine: Machine, guided: Path, size: tuple[int, int], amount: dict[str, Any]
) -> None:
    images = [photo(*size, seed) for seed in range(3)]
    with MaskedUpscaler(guided, precision="fp32", **amount) as upscale:
        large = [upscale(image) for image in images]
        share = upscale.stats.share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_module, "select_backend", select_backend)
        with MaskedUpscaler(guided, backend="onnxruntime", precision="fp32", **amount) as upscale:
            for image, result in zip(images, large, strict=True):
                np.testing.assert_array_equal(result, upscale(image))
            assert share == pytest.approx(upscale.stats.share)
    assert machine.runs


@pytest.mark.usefixtures("machine")
def test_heat_of_a_device_equals_that_of_the_host(guided: Path) -> None:
    """Frames leave their scores on the device: the first map takes a run from the host, the others come from theirs."""
    images = [photo(30, 41, seed) for seed in range(2)]
    with MaskedUpscaler(guided, precision="fp32", k=3) as upscale:
        found = []
        for image in images:
            upscale(image)
            found.append(upscale.last_heat(image))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upscaler_module, "select_backend", select_backend)
        with MaskedUpscaler(guided, backend="onnxruntime", precision="fp32", k=3) as upscale:
            expected = [upscale.heat(image) for image in images]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def spoil_refined(*precisions: str) -> Callable[[str, dict[str, Array]], None]:
    def spoil(precision: str, results: dict[str, Array]) -> None:
        if FEATURES not in results and precision in precisions:
            results[HEALTH][1::2] = np.nan
            results[OUTPUT][1::2] = 77

    return spoil


def test_patches_that_are_not_sane_are_computed_again_in_fp32(machine: Machine, guided: Path) -> None:
    image = photo(40, 52)
    machine.spoil = spoil_refined("fp16")
    with MaskedUpscaler(guided, k=9, precision="fp16") as upscale:
        large = upscale(image)
        assert upscale.stats.trouble == "of 9 patches 4 were not sane: 4 computed again in fp32, 0 as the base made them"
    assert np.abs(large.astype(int) - host(guided, image, k=9)).max() <= 1


def test_patches_that_stay_unhealthy_stay_coarse(machine: Machine, guided: Path) -> None:
    image = photo(40, 52)
    machine.spoil = spoil_refined("fp32")
    with MaskedUpscaler(guided, k=9, precision="fp32") as upscale:
        large = upscale(image)
        assert upscale.stats.trouble == "of 9 patches 4 were not sane: 0 computed again in fp32, 4 as the base made them"
    coarse, refined = host(guided, image, k=0), host(guided, image, k=9)
    assert ((large == coarse) | (large == refined)).all()
    assert not np.array_equal(large, coarse) and not np.array_equal(large, refined)


# Who opens what -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{}, {"k": -1}, {"k": 1.5}, {"k": float("nan")}, {"k": 3, "threshold": 1.0}, {"k": 3, "budget": 0.5}]
)
def test_wrong_amounts_are_refused(guided: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        MaskedUpscaler(guided, **wrong)


def test_a_plain_upscaler_tells_who_opens_a_mask_guided_network(guided: Path) -> None:
    with pytest.raises(BundleError, match="MaskedUpscaler"), Upscaler(guided, backend="onnxruntime") as upscale:
        upscale(photo(8, 8))
