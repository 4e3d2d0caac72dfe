"""INT8 against ONNX's reference, torch, plain rounding, every subset of a small network, and pictures whose HR is known."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

import sr_deploy.export.int8.pictures as calibration_pictures
from sr_deploy import Upscaler
from sr_deploy.architectures import REGISTRY
from sr_deploy.arrays import Array
from sr_deploy.bundle import Bundle
from sr_deploy.card import ModelCard
from sr_deploy.cli import program
from sr_deploy.engines.parity import verify
from sr_deploy.errors import UsageError
from sr_deploy.export import export_bundle
from sr_deploy.export.certify import run_graph
from sr_deploy.export.int8 import LEAST_FACTOR, quantize
from sr_deploy.export.int8.calibration import (
    ChannelRanges,
    Moments,
    Quantizer,
    moments_of,
    range_of,
    ranges_of,
    weights_of,
)
from sr_deploy.export.int8.choice import choose, greedy
from sr_deploy.export.int8.equalization import equalizable, equalize
from sr_deploy.export.int8.graph import to_int8
from sr_deploy.export.int8.rounding import LARGEST_CODE, quantize_weights
from sr_deploy.export.int8.speed import STORED, TimeEstimate
from sr_deploy.export.trace import trace
from sr_deploy.metrics import psnr_y

CHECKPOINT = "ECBSR_M4C16_x4.pth"
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module", autouse=True)
def few_crops() -> Iterator[None]:
    """A quarter of the crops: what they find is tested, not how well they stand for all pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_pictures, "_CROPS", 4)
        yield


@pytest.fixture(scope="module")
def bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(shared / "checkpoints" / CHECKPOINT, tmp_path_factory.mktemp("int8") / "net", int8=0.05)


@pytest.fixture(scope="module")
def fp32(bundle: Bundle) -> ModelProto:
    return onnx.load(bundle.graph("fp32"))


def convs_of(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def in_8_bits(model: ModelProto, inputs: list[Array]) -> ModelProto:
    """All of its convs."""
    convs = convs_of(model)
    ranges = ranges_of(model, sorted({conv.input[0] for conv in convs}), inputs)
    quantizers = {name: seen.quantizer(symmetric=False) for name, seen in ranges.items()}
    moments = moments_of(model, convs, quantizers, inputs)
    weights = {conv.name: quantize_weights(*weights_of(model, conv), moments[conv.name]) for conv in convs}
    return to_int8(model, weights, quantizers)


@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_are_those_of_onnx(symmetric: bool) -> None:
    values = RANDOM.normal(0.3, 1, (1, 4, 9, 7)).astype(np.float32)
    quantizer = range_of(values).quantizer(symmetric=symmetric)
    zero = np.array(quantizer.zero_point, np.int8 if symmetric else np.uint8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 9, 7]) for name in ("x", "y")]
    scale = np.array(quantizer.scale, np.float32)
    tensors = [onnx.numpy_helper.from_array(scale, "s"), onnx.numpy_helper.from_array(zero, "z")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors))
    (expected,) = ReferenceEvaluator(model).run(None, {"x": values})
    assert np.allclose(quantizer.rounded(values), expected, atol=1e-6)
    assert np.abs(quantizer.rounded(values) - values).max() <= quantizer.scale * 0.51


def test_the_values_of_borders_have_a_code() -> None:
    quantizer = range_of(np.full((1, 2, 3, 3), 5.0, np.float32)).quantizer(symmetric=False)
    assert quantizer.rounded(np.zeros((1, 2, 1, 1), np.float32)).max() == 0


@pytest.mark.parametrize(("stride", "pads"), [(1, [1, 1, 1, 1]), (2, [0, 1, 2, 0])])
def test_moments_are_those_of_unfolded_values(stride: int, pads: list[int]) -> None:
    weight = RANDOM.normal(0, 1, (5, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["input", "w"], ["output"], "conv", pads=pads, strides=[stride, stride])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in ("input", "output")]
    tensors = [onnx.numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    image = RANDOM.normal(0, 1, (1, 3, 12, 10)).astype(np.float32)
    fine = Quantizer(1e-4, 0, symmetric=True)
    found = moments_of(model, [node], {"input": fine}, [image])["conv"]
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(image), (left, right, top, bottom))
    columns = torch.nn.functional.unfold(padded, 3, stride=stride)[0].numpy().T
    assert found.count == len(columns)
    assert np.allclose(found.exact, columns.sum(0), atol=1e-3)
    rounded = columns.clip(-127e-4, 127e-4)
    assert np.allclose(found.hessian, rounded.T @ rounded, atol=1e-3)


def test_weights_are_rounded_better_than_one_by_one() -> None:
    mixed = RANDOM.normal(0, 1, (36, 36)) * np.geomspace(1, 0.02, 36)
    inputs = RANDOM.normal(0, 1, (4000, 36)) @ mixed + 0.5
    weight, bias = RANDOM.normal(0, 1, (8, 4, 3, 3)).astype(np.float32), np.ones(8, np.float32)
    moments = Moments()
    moments.add(inputs, inputs)
    made = quantize_weights(weight, bias, moments)
    exact = inputs @ weight.reshape(8, -1).T + bias
    found = inputs @ made.values().reshape(8, -1).T + made.bias
    plain = np.rint(weight / made.scales[:, None, None, None]) * made.scales[:, None, None, None]
    one_by_one = inputs @ plain.reshape(8, -1).T + bias
    assert np.square(found - exact).mean() < 0.5 * np.square(one_by_one - exact).mean()
    assert np.abs((found - exact).mean(0)).max() < 1e-3
    assert np.abs(made.codes).max() <= LARGEST_CODE


def test_two_products_fit_in_16_bits() -> None:
    assert np.iinfo(np.int16).max >= 2 * 255 * LARGEST_CODE


def test_equal_channels_compute_the_same_and_err_less(fp32: ModelProto) -> None:
    inputs = [RANDOM.random((1, 3, 32, 32), np.float32)]
    names = equalizable(fp32)
    assert len(names) >= 4
    equal = equalize(fp32, ranges_of(fp32, names, inputs))
    image = {"image": inputs[0]}
    exact = run_graph(fp32, image)["image"]
    assert np.abs(run_graph(equal, image)["image"] - exact).max() < 1e-4
    errors = [np.square(run_graph(in_8_bits(model, inputs), image)["image"] - exact).mean() for model in (fp32, equal)]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("budget", [0.1, 1.0, 3.0, 10.0])
def test_the_choice_keeps_its_budget_and_is_nearly_the_best(fp32: ModelProto, budget: float) -> None:
    timing = TimeEstimate(fp32, STORED)
    errors = {name: float(value) for name, value in zip(timing.layers, np.geomspace(0.05, 2, len(timing.layers)), strict=True)}
    chosen = greedy(errors, budget, timing)
    assert sum(errors[name] for name in chosen) <= budget
    subsets = itertools.chain.from_iterable(itertools.combinations(errors, count) for count in range(len(errors) + 1))
    best = max(timing.saved(one) for one in subsets if sum(errors[name] for name in one) <= budget)
    assert timing.saved(chosen) >= 0.7 * best


def test_errors_that_add_up_to_more_are_noticed(fp32: ModelProto) -> None:
    timing = TimeEstimate(fp32, STORED)
    errors = dict.fromkeys(timing.layers, 0.1)
    joint: Callable[[frozenset[str]], float] = lambda names: 0.3 * len(names)  # noqa: E731
    chosen, error = choose(errors, 0.7, timing, joint)
    assert len(chosen) == 2 and error == pytest.approx(0.6)


def test_backends_agree_and_any_size_goes(bundle: Bundle) -> None:
    """Without VNNI, sums of two products would be cut off at 16 bits if weights had all of their 8."""
    model = onnx.load(bundle.graph("int8"))
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    for size in ((1, 1), (37, 50), (64, 33)):
        image = {"image": RANDOM.random((1, 3, *size), np.float32)}
        one, other = (run_graph(model, image, backend=name)["image"] for name in ("openvino", "onnxruntime"))
        steps = np.abs(np.rint(one * 255) - np.rint(other * 255))
        assert (steps <= 1).mean() >= 0.999


def test_all_convs_in_8_bits_do_not_saturate(fp32: ModelProto) -> None:
    image = np.zeros((1, 3, 64, 64), np.float32)
    image[..., ::2] = 1.0
    model = in_8_bits(fp32, [image])
    one, other = (run_graph(model, {"image": image}, backend=name)["image"] for name in ("openvino", "onnxruntime"))
    assert np.abs(one - other).max() < 2 / 255


def test_the_certificate_has_the_link_and_verify_repeats_it(bundle: Bundle) -> None:
    links = [link for link in bundle.certificate if link.source == "fp32.onnx"]
    assert {link.target for link in links} >= {"int8.onnx on openvino", "int8.onnx on onnxruntime"}
    assert all(link.passed and link.floor.startswith("PSNR of Y >= ") for link in links)
    again = [link for link in verify(bundle, backend="openvino") if link.source == "fp32.onnx"]
    assert len(again) == 1 and again[0].passed
    assert (bundle.graphs["int8"].loss, bundle.graphs["int8"].opset) == (0.05, 20)
    assert (bundle.graphs["int8"].factor or 0) >= LEAST_FACTOR
    assert "convs are computed in 8 bits" in (bundle.folder / "report.html").read_text(encoding="utf-8")


def test_photographs_lose_less_than_was_allowed(bundle: Bundle, shared: Path) -> None:
    folder = shared / "images" / "Set5"
    found: dict[str, list[float]] = {"fp32": [], "int8": []}
    for precision, psnr in found.items():
        with Upscaler(bundle.folder, precision=precision) as upscale:  # type: ignore[arg-type]
            for path in sorted((folder / "HR").glob("*.png")):
                lr = cv2.imread(str(folder / "LR_bicubic" / "X4" / f"{path.stem}x4.png"))[..., ::-1]
                sr = upscale(np.ascontiguousarray(lr))
                hr = cv2.imread(str(path))[: sr.shape[0], : sr.shape[1], ::-1]
                psnr.append(psnr_y(hr, sr, border=4))
    loss = np.mean(found["fp32"]) - np.mean(found["int8"])
    assert 0 < loss <= 0.05


def test_tiles_of_an_exact_network_are_the_whole_and_auto_takes_int8(bundle: Bundle) -> None:
    image = RANDOM.integers(0, 256, (90, 70, 3), np.uint8)
    with Upscaler(bundle.folder) as whole, Upscaler(bundle.folder, precision="int8", tile=48) as tiled:
        assert "int8" in whole.description
        assert np.array_equal(whole(image), tiled(image))


@pytest.mark.long
def test_what_cannot_keep_its_budget_is_not_written(shared: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"graph that loses at most 1e-05 dB is 1\.15 times as fast") as told:
        made = export_bundle(shared / "checkpoints" / CHECKPOINT, tmp_path / "net", int8=1e-5)
    assert len(told) == 2 and set(made.graphs) == {"fp32", "fp16"}


def test_mask_guided_networks_have_no_int8(tmp_path: Path) -> None:
    entry = next(entry for entry in REGISTRY if entry.name == "rfdn_mga")
    assert entry.mask_guided
    checkpoint = tmp_path / "net.pth"
    torch.manual_seed(0)
    torch.save(entry.build(entry.default).state_dict(), checkpoint)
    with pytest.warns(UserWarning), pytest.raises(UsageError, match="a mask-guided network has no INT8 form"):
        export_bundle(checkpoint, tmp_path / "net", int8=0.05, anyway=True, value_range=1)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--loss", "0.1"), "give --int8 too"), (("--int8", "--calibration", "empty"), "holds no picture")],
)
def test_options_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(program, ["export", "net.pth", *arguments], prog_name="sr-deploy")
    assert result.exit_code == 2 and words in result.output


def test_calibration_of_ones_own(fp32: ModelProto, bundle: Bundle) -> None:
    """Ranges come from the pictures that are given: dark ones make bright ones clip."""
    dark = [np.full((80, 80, 3), 20, np.uint8)]
    card: ModelCard = bundle.card
    made = quantize(fp32, card, loss=1.0, calibration=dark, speed=STORED)
    usual = quantize(fp32, card, loss=1.0, speed=STORED)
    assert sum(made.errors.values()) > 2 * sum(usual.errors.values())


def test_ranges_join() -> None:
    one, other = ChannelRanges(np.array([-1.0, 0]), np.array([0.0, 2])), ChannelRanges(np.array([0.0, -3]), np.array([5.0, 1]))
    both = one.joined(other)
    assert both.low.tolist() == [-1, -3] and both.high.tolist() == [5, 2] and both.peaks.tolist() == [5, 3]


@pytest.mark.long
def test_a_network_of_other_activations_is_quantized() -> None:
    """SPAN's gates let no factors through: its channels are balanced by a Mul before Q."""
    entry = next(entry for entry in REGISTRY if entry.name == "span")
    torch.manual_seed(0)
    config = dataclasses.replace(entry.default, channels=8, blocks=1)
    model = trace(entry.build(config).eval(), channels=3)
    card = ModelCard("span", "span", entry.default.scale, 3)
    made = quantize(model, card, loss=3.0, speed=STORED)
    assert made.model is not None
    onnx.checker.check_model(made.model, full_check=True)
    assert any(node.name.endswith("/Mul") and node.input[1].endswith("/balance") for node in made.model.graph.node)
